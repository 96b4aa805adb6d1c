import { load, h as make } from "./box.js";

// The organisers' page. It refreshes itself while it is looked at; what is selected stays selected.
{
  const TABS = [...document.querySelectorAll("[data-tab]")].map(({ dataset }) => dataset.tab); // helpers have fewer
  const PAUSE = 5000;
  const DONE = { stop: "are being stopped", extend: "are being extended", restart: "are being restarted" };
  const element = (id) => document.getElementById(id);
  const filter = element("stackd-filter");
  const form = element("stackd-batch");
  const selected = new Set();
  let page = 1;
  let listed = [];
  let total = 0;
  let everything = false;
  let timer;
  let turn = 0;

  const link = (href, text) => (href ? make("a", { href, textContent: text }) : text);
  const root = (path) => (path ? `${CTFd.config.urlRoot}${path}` : "");

  const send = async (path, method = "GET", body) => {
    const answer = await CTFd.fetch(`/api/v1/stackd/admin/${path}`, { method, body: body && JSON.stringify(body) });
    const { success, data, errors } = await answer.json();
    if (!success) throw new Error(Object.values(errors).flat().join(" "));
    return data;
  };

  const tell = (text, kind) => {
    element("stackd-message").className = text ? `alert alert-${kind}` : "";
    element("stackd-message").textContent = text;
  };
  const attempt = (work) => work().catch((error) => tell(error.message || "CTFd did not answer.", "danger"));

  const length = (seconds) => {
    if (seconds == null) return "";
    const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
    if (hours) return `${hours} h ${minutes} min`;
    return minutes ? `${minutes} min` : `${seconds} s`;
  };
  const moment = (seconds) => new Date(seconds * 1000).toLocaleString();

  const texts = await load(new URL("locale/", import.meta.url).href, "en");
  const why = (key, said) =>
    (texts(`ended.${key}`) || texts.why({ key, player_message: said })).replace(" Please tell the organisers.", "");

  // ---- tabs

  const open = (name, focus) => {
    for (const tab of TABS) {
      const chosen = tab === name;
      element(`panel-${tab}`).hidden = !chosen;
      element(`tab-${tab}`).setAttribute("aria-selected", chosen);
      element(`tab-${tab}`).classList.toggle("active", chosen);
      element(`tab-${tab}`).tabIndex = chosen ? 0 : -1;
    }
    if (focus) element(`tab-${name}`).focus();
    history.replaceState(null, "", `#${name}`);
    refresh();
  };
  const current = () => TABS.find((tab) => !element(`panel-${tab}`).hidden) ?? TABS[0];

  // ---- the list

  const query = () => Object.fromEntries(new FormData(filter));

  const button = (textContent, className, onclick, more = {}) =>
    make("button", { type: "button", className: `btn btn-sm ${className}`, textContent, onclick, ...more });

  const chosen = () => {
    const count = everything ? total : selected.size;
    const all = button(`Select all ${total} that match`, "btn-link", () => {
      everything = true;
      draw();
    });
    const offers = !everything && listed.length && selected.size >= listed.length && total > listed.length;
    const text = count ? `${count} selected` : "Select instances below";
    element("stackd-chosen").replaceChildren(text, ...(offers ? [" ", all] : []));
    for (const button of document.querySelectorAll("[data-act]")) button.disabled = !count;
    element("stackd-all").checked = listed.length > 0 && (everything || listed.every(({ name }) => selected.has(name)));
  };

  const tile = (name, number, about, { bad = false, status } = {}) => {
    const body = [make("strong", { textContent: number }), name, make("small", { textContent: about })];
    const made = make(status ? "button" : "div", { className: `stackd-tile${bad ? " bad" : ""}` }, ...body);
    if (status) {
      made.type = "button";
      made.dataset.status = status;
      made.setAttribute("aria-pressed", filter.status.value === status);
      made.addEventListener("click", () => {
        filter.status.value = filter.status.value === status ? "" : status;
        choose();
        element("stackd-tiles").querySelector(`[data-status=${status}]`)?.focus();
      });
    }
    return made;
  };

  let stock = null; // what stackd says about templates
  const tiles = (counts, reason) => {
    const focused = document.activeElement?.dataset?.status;
    const starting = (counts.starting ?? 0) + (counts.restarting ?? 0);
    const shown = [
      tile("Running", counts.running ?? 0, "", { status: "running" }),
      tile("Starting", starting, "", { status: "starting" }),
      tile("Failed", counts.failed ?? 0, reason ? `most: ${why(reason)}` : "", {
        bad: counts.failed > 0,
        status: "failed",
      }),
    ];
    if (stock?.error) shown.push(tile("stackd", "–", stock.error, { bad: true }));
    else if (stock) {
      const pools = stock.templates.filter(({ pool }) => pool);
      const sum = (key) => pools.reduce((sum, one) => sum + one[key], 0);
      const ready = pools.length ? `${sum("ready")} of ${sum("pool")}` : "–";
      const low = pools.filter(({ ready, pool }) => ready < pool / 2).map(({ name }) => name);
      const limit = stock.limited_by ? `limited by ${stock.limited_by}` : "";
      shown.push(
        tile("Ready in pools", ready, low.length ? `low: ${low.join(", ")}` : "", { bad: low.length > 0 }),
        tile("Still fit", stock.fits ?? "–", limit, { bad: stock.fits === 0 }),
      );
    }
    element("stackd-tiles").replaceChildren(...shown);
    if (focused) element("stackd-tiles").querySelector(`[data-status=${focused}]`)?.focus();
  };

  const row = (one) => {
    const ariaLabel = `Select ${one.account}, ${one.challenge}`;
    const box = make("input", { type: "checkbox", checked: everything || selected.has(one.name), ariaLabel });
    box.addEventListener("change", () => {
      if (everything) for (const { name } of listed) selected.add(name);
      everything = false;
      selected[box.checked ? "add" : "delete"](one.name);
      chosen();
    });
    const status = make("td", {}, make("span", { className: `stackd-dot ${one.status}` }), one.status);
    const doing = one.doing ? ` (${one.doing.key.replace("_", " ")}, ${length(one.doing.seconds)})` : "";
    status.append(doing);
    if (one.problem) {
      const [first, ...lines] = one.detail.trim().split("\n");
      const said = make("small", {
        className: "d-block",
        textContent: why(one.problem.key, one.problem.player_message),
      });
      status.append(said, make("small", { className: "d-block", textContent: first.replace(/^\w+: /, "") }));
      if (lines.length) {
        const summary = make("summary", { className: "small" }, make("code", { textContent: lines.at(-1) }));
        const details = make("details", { open: opened.has(one.name) }, summary);
        details.append(make("pre", { className: "mb-0 small", textContent: one.detail }));
        details.addEventListener("toggle", () => opened[details.open ? "add" : "delete"](one.name));
        status.append(details);
      }
    }
    const cost =
      one.budget > 0 && make("small", { className: "d-block", textContent: `${one.spent} of ${one.budget}` });
    const addresses = one.addresses.map(({ text }) => make("code", { className: "d-block", textContent: text }));
    return make(
      "tr",
      {},
      make("td", {}, box),
      make("td", {}, link(root(one.account_page), one.account), cost),
      make("td", {}, link(root(one.challenge_page), one.challenge)),
      status,
      make("td", { className: "stackd-quiet", textContent: length(one.age) }),
      make("td", { className: "stackd-quiet", textContent: length(one.seconds_left) }),
      make("td", {}, ...addresses),
      make("td", {}, one.stack_id ? link(one.stack_page, one.stack_id) : ""),
    );
  };
  const opened = new Set();

  const pager = (id, number, pages, go) => {
    const turnTo = (text, to, ariaLabel) =>
      button(text, "btn-outline-secondary", () => go(to), { ariaLabel, disabled: to < 1 || to > pages });
    const parts = [
      turnTo("‹", number - 1, "Previous page"),
      `${number} of ${pages}`,
      turnTo("›", number + 1, "Next page"),
    ];
    element(id).replaceChildren(...(pages > 1 ? parts : []));
  };

  const empty = (columns, text) => make("tr", {}, make("td", { colSpan: columns, textContent: text }));

  let seen = null;
  const draw = () => {
    const { instances, pages, counts, top_failure, challenges, last_refusal, batches } = seen;
    listed = instances;
    total = seen.total;
    page = seen.page;
    if (filter.challenge.options.length !== challenges.length + 1) {
      for (const [list, ...first] of [[filter.challenge, new Option("All challenges", "")], [form?.challenge]]) {
        const kept = list?.value;
        list?.replaceChildren(...first, ...challenges.map(([key, name]) => new Option(name, key, false, key === kept)));
      }
    }
    element("stackd-batches").replaceChildren(
      ...batches.map(({ challenge, total, done, refused }) => {
        const text = `${challenge}: ${done - refused} of ${total} made${refused ? `, ${refused} tried one by one` : ""}`;
        return make("label", { className: "d-block" }, text, make("progress", { max: total, value: done }));
      }),
    );
    tiles(counts, top_failure);
    element("stackd-refusal").textContent = last_refusal;
    element("stackd-refusal").hidden = !last_refusal;
    const none = Object.values(query()).some(Boolean) ? "No instance matches." : "No instance is running.";
    const focused = document.activeElement?.closest?.("#stackd-rows tr")?.rowIndex;
    element("stackd-rows").replaceChildren(...(instances.length ? instances.map(row) : [empty(8, none)]));
    if (focused) element("stackd-rows").rows[focused - 1]?.querySelector("input")?.focus();
    pager("stackd-pages", page, pages, (to) => {
      page = to;
      refresh();
    });
    chosen();
  };

  const choose = () => {
    page = 1;
    everything = false;
    selected.clear();
    refresh();
  };

  // ---- the other tabs

  let sharingPage = 1;
  const sharing = async () => {
    const { rows, page: number, pages } = await send(`sharing?page=${sharingPage}`);
    element("stackd-sharing").replaceChildren(
      ...(rows.length ? rows : [null]).map((one) => {
        if (one === null) return empty(5, "Nobody has sent somebody else's flag.");
        const team = one.sender === one.user ? "" : ` (${one.sender})`;
        const cells = [one.owner, one.challenge, moment(one.sent), moment(one.got)];
        const by = make("td", {}, link(root(one.user_page), one.user), team);
        return make("tr", {}, by, ...cells.map((text) => make("td", { textContent: text })));
      }),
    );
    pager("stackd-sharing-pages", number, pages, (to) => {
      sharingPage = to;
      refresh();
    });
  };

  const health = async (method = "GET") => {
    const [connection, ...challenges] = await send("test", method);
    const bad = challenges.filter(({ ok }) => !ok).length;
    const well = connection.ok && !bad;
    const about = bad ? `; ${bad} of ${challenges.length} challenges need attention` : "";
    element("stackd-result").className = well ? "stackd-good" : "stackd-bad";
    element("stackd-result").textContent = `${well ? "✓" : "✗"} ${connection.text}${about}`;
    const cell = (text, ok) => make("td", { className: { true: "stackd-good", false: "stackd-bad" }[ok] ?? "" }, text);
    element("stackd-health").replaceChildren(
      ...(challenges.length ? challenges : [null]).map((one) => {
        if (one === null) return empty(5, "There is no challenge with instances.");
        const most = one.most ? ` (most: ${why(one.most)})` : "";
        const { healthy, message, trouble, at } = one.checked ?? {};
        const said = healthy ? "healthy" : message || trouble || "–";
        const low = one.pool && one.ready < one.pool / 2 ? false : null;
        const pool = one.pool ? `${one.ready} of ${one.pool}${one.reason ? `: ${one.reason}` : ""}` : "–";
        return make(
          "tr",
          {},
          cell(`${one.ok ? "✓" : "✗"} ${one.name}`, one.ok),
          cell(one.text, one.starts),
          cell(one.failed ? `${one.failed} of ${one.instances}${most}` : `0 of ${one.instances}`, !one.failed && null),
          cell(at ? `${said} (${new Date(at).toLocaleTimeString()})` : said, healthy),
          cell(pool, low),
        );
      }),
    );
  };

  // ---- refreshing

  const instances = async () => {
    const mine = ++turn;
    const data = await send(`instances?${new URLSearchParams({ ...query(), page })}`);
    if (mine !== turn) return;
    seen = data;
    draw();
    const answered = await send("templates").catch((error) => ({ error: error.message }));
    if (mine !== turn) return;
    stock = answered;
    tiles(seen.counts, seen.top_failure);
  };

  const refresh = async () => {
    clearTimeout(timer);
    const work = { instances, sharing, health }[current()];
    if (work) await attempt(() => work());
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(refresh, PAUSE);
  };

  for (const tab of TABS) {
    element(`tab-${tab}`).addEventListener("click", () => open(tab));
    element(`tab-${tab}`).addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step) open(TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length], true);
    });
  }
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  filter.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("input", choose);

  element("stackd-all").addEventListener("change", ({ target }) => {
    everything = false;
    for (const { name } of listed) selected[target.checked ? "add" : "delete"](name);
    draw();
  });

  for (const button of document.querySelectorAll("[data-act]")) {
    button.addEventListener("click", () =>
      attempt(async () => {
        const action = button.dataset.act;
        const count = everything ? total : selected.size;
        if (action !== "extend" && !confirm(`${action === "stop" ? "Stop" : "Restart"} ${count} instances?`)) return;
        const these = everything ? { filter: query() } : { names: [...selected] };
        const answer = await send("instances", "POST", { action, by: element("stackd-by").value, ...these });
        tell(`${answer.count} instances ${DONE[action]}.`, "success");
        selected.clear();
        everything = false;
        await refresh();
      }),
    );
  }

  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      const { accounts, ...others } = Object.fromEntries(new FormData(form));
      const { count, skipped } = await send("batches", "POST", { ...others, accounts: accounts.split("\n") });
      const left = Object.entries(skipped).map(([reason, names]) => {
        const more = names.length > 10 ? `, and ${names.length - 10} more` : "";
        return ` ${names.length} skipped, each ${reason}: ${names.slice(0, 10).join(", ")}${more}.`;
      });
      tell(`${count} instances are being made.${left.join("")}`, "success");
      await refresh();
    });
  });

  element("stackd-settings")?.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      await send("settings", "PATCH", Object.fromEntries(new FormData(event.target)));
      tell("Saved.", "success");
    });
  });

  element("stackd-test").addEventListener("click", () =>
    attempt(async () => {
      element("stackd-result").textContent = "Testing…";
      await health("POST");
    }),
  );

  open(TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : TABS[0]);
}
