// The organisers' page: stop and extend instances, save and test the settings.
{
  const element = (id) => document.getElementById(id);
  const boxes = () => [...document.querySelectorAll("input[name=instance]")];

  const tell = (text, kind) => {
    element("stackd-message").className = `alert alert-${kind}`;
    element("stackd-message").textContent = text;
  };

  const send = async (path, method, body) => {
    const answer = await CTFd.fetch(`/api/v1/stackd/admin/${path}`, { method, body: JSON.stringify(body) });
    const { success, data, errors } = await answer.json();
    if (!success) throw new Error(Object.values(errors).flat().join(" "));
    return data;
  };

  const attempt = (work) => work().catch((error) => tell(error.message || "CTFd did not answer.", "danger"));

  element("stackd-all").addEventListener("change", (event) => {
    for (const box of boxes()) box.checked = event.target.checked;
  });

  for (const button of document.querySelectorAll("[data-act]")) {
    button.addEventListener("click", () =>
      attempt(async () => {
        const names = boxes()
          .filter((box) => box.checked)
          .map((box) => box.value);
        const action = button.dataset.act;
        if (!names.length) return tell("Select instances first.", "warning");
        if (action === "stop" && !confirm(`Stop ${names.length} of ${boxes().length} instances?`)) return;
        const { count } = await send("instances", "POST", { action, names });
        tell(`${count} instances ${action === "stop" ? "are being stopped" : "are being extended"}.`, "success");
        setTimeout(() => location.reload(), 1500);
      }),
    );
  }

  element("stackd-settings").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      await send("settings", "PATCH", Object.fromEntries(new FormData(event.target)));
      tell("Saved.", "success");
    });
  });

  element("stackd-test").addEventListener("click", () =>
    attempt(async () => {
      element("stackd-result").textContent = "Testing…";
      const lines = await send("test", "POST", {});
      element("stackd-result").replaceChildren(
        ...lines.map(({ ok, text }) => {
          const line = document.createElement("li");
          line.className = ok ? "text-success" : "text-danger";
          line.textContent = `${ok ? "✓" : "✗"} ${text}`;
          return line;
        }),
      );
    }),
  );
}
