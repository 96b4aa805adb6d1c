// The admin's form of a challenge: offers stackd's templates, shows the fields that the choices need, and warns of what would
// go wrong while the form is filled in.
{
  const element = (id) => document.getElementById(id);
  const form = element("stackd-fields").closest("form");
  const SKELETON = `target_port: [{container_port: 80, protocol: TCP}]
ttl: 30m
values: {FLAG: "flag{<hex:32>}"}
pool: 2
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: web}
  spec:
    containers:
      - name: app
        image: nginx:stable
        ports: [{containerPort: 80}]
        resources: {limits: {cpu: 100m, memory: 128Mi}}
`;

  const send = async (path, method, body) => {
    const answer = await CTFd.fetch(`/api/v1/stackd/admin/${path}`, { method, body: body && JSON.stringify(body) });
    const { success, data, errors } = await answer.json();
    if (!success) throw new Error(Object.values(errors).flat().join("\n"));
    return data;
  };

  const warn = (...lines) => {
    element("stackd-warnings").replaceChildren(
      ...lines.map((text) => {
        const line = document.createElement("p");
        line.className = "mb-1";
        line.style.whiteSpace = "pre-line";
        line.textContent = `⚠ ${text}`;
        return line;
      }),
    );
  };

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

  const described = ({ name, title, generates, pool, ttl, shared }) => {
    const parts = [
      generates.length ? `generates ${generates.join(", ")}` : "generates no flag",
      pool ? `pool of ${pool}` : "no pool",
      shared ? "shared by all" : ttl,
    ];
    return `${name}${title ? ` (${title})` : ""}: ${parts.join(", ")}`;
  };

  const load = async () => {
    const { templates, may_write } = await send("templates?now=1", "GET");
    const chosen = element("stackd_template").value;
    const names = new Set(templates.map(({ name }) => name));
    const options = templates.map((one) => new Option(described(one), one.name, false, one.name === chosen));
    if (!chosen) options.unshift(new Option("Choose one", "", true, true));
    else if (!names.has(chosen))
      options.unshift(new Option(`${chosen}: stackd has no such template`, chosen, true, true));
    element("stackd_template").replaceChildren(...options);
    element("stackd-new").hidden = !may_write;
  };

  let turn = 0;
  const check = async () => {
    if (!element("stackd_template").value) return;
    const mine = ++turn;
    const fields = Object.fromEntries([...new FormData(form)].filter(([name]) => /^stackd_|^function$/.test(name)));
    const lines = await send("check", "POST", fields);
    if (mine === turn) warn(...lines);
  };

  const attempt = (work) => work().catch((error) => warn(error.message || "CTFd did not answer."));

  element("stackd-new-text").value = SKELETON;
  element("stackd-new-save").addEventListener("click", () =>
    attempt(async () => {
      const name = element("stackd-new-name").value.trim();
      await send(`templates/${encodeURIComponent(name)}`, "PUT", { text: element("stackd-new-text").value });
      element("stackd_template").replaceChildren(new Option(name, name, true, true));
      await load();
      element("stackd-new").open = false;
      await check();
    }),
  );
  element("stackd-fields").addEventListener("change", (event) => {
    if (event.target.name) attempt(check);
  });
  element("function").addEventListener("change", adapt);
  element("stackd_flag_source").addEventListener("change", adapt);
  adapt();
  attempt(async () => {
    await load();
    await check();
  });
}
