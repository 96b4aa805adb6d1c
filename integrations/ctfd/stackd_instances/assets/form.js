// The admin's form of a challenge: offers stackd's templates, and shows the fields that the choices need.
{
  const element = (id) => document.getElementById(id);

  const show = (name, visible) => {
    const group = document.querySelector(`[data-stackd="${name}"]`);
    group.hidden = !visible;
    for (const input of group.querySelectorAll("input, select")) input.disabled = !visible;
  };

  const adapt = () => {
    const dynamic = element("function").value !== "static";
    show("value", !dynamic);
    for (const name of ["initial", "decay", "minimum"]) show(name, dynamic);
    show("stackd_value", element("stackd_flag_source").value === "stack");
  };

  const load = async () => {
    const answer = await CTFd.fetch("/api/v1/stackd/admin/templates", { method: "GET" });
    const { success, data, errors } = await answer.json();
    if (!success) throw new Error(Object.values(errors).flat().join(" "));
    element("stackd-templates").replaceChildren(
      ...data.map(({ name, generates }) => {
        const option = document.createElement("option");
        option.value = name;
        option.label = generates.length ? `generates ${generates.join(", ")}` : "generates no flag";
        return option;
      }),
    );
  };

  element("function").addEventListener("change", adapt);
  element("stackd_flag_source").addEventListener("change", adapt);
  adapt();
  load().catch((error) => {
    element("stackd-templates-error").textContent = `The templates cannot be listed: ${error.message}`;
  });
}
