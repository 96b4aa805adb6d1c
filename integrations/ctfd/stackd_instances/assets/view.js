// The player's box: <stackd-instance challenge="5"> in a challenge's window, <stackd-instance instance="name"> elsewhere.
// An element of its own works in every theme, however the theme puts the window together.

if (CTFd._internal?.challenge) {
  // What CTFd's themes expect of a challenge type.
  Object.assign(CTFd._internal.challenge, {
    data: undefined,
    renderer: null,
    render: null,
    preRender() {},
    postRender() {},
    submit(preview) {
      const body = {
        challenge_id: Number.parseInt(document.getElementById("challenge-id").value, 10),
        submission: document.getElementById("challenge-input").value,
      };
      return CTFd.api.post_challenge_attempt(preview ? { preview: true } : {}, body);
    },
  });
}

if (!customElements.get("stackd-instance")) {
  const API = "/api/v1/stackd";
  const NEWS = new BroadcastChannel("stackd-instances");
  const TRANSIENT = ["starting", "restarting", "stopping"];
  const TEXTS = {
    none: "No instance is running.",
    starting: "Your instance is starting…",
    restarting: "Your instance is restarting…",
    running: "Your instance is running.",
    stopping: "Your instance is stopping…",
    failed: "Your instance has stopped working. Restart it, or stop it and start a new one.",
  };
  const UNREACHABLE = "No answer. Check your connection and try again.";
  const HTML = `
    <section class="card my-3 text-left text-start" aria-label="Instance">
      <div class="card-body p-3">
        <div class="stackd-status mb-2" role="status" tabindex="-1"></div>
        <div class="stackd-error alert alert-danger p-2 mb-2" role="alert" hidden></div>
        <ul class="stackd-addresses list-unstyled mb-2"></ul>
        <p class="stackd-time mb-2" hidden>Time left: <span role="timer"></span></p>
        <div class="stackd-buttons">
          <button type="button" class="btn btn-sm btn-success" data-do="start">Start</button>
          <button type="button" class="btn btn-sm btn-info" data-do="extend">Extend</button>
          <button type="button" class="btn btn-sm btn-warning" data-do="restart">Restart</button>
          <button type="button" class="btn btn-sm btn-danger" data-do="stop">Stop</button>
        </div>
        <small class="stackd-hint text-muted d-block mt-2"></small>
      </div>
    </section>`;

  const clock = (seconds) => {
    const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
    const two = (number) => String(number).padStart(2, "0");
    return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  };

  const request = async (path, method) => {
    let answer;
    let body;
    try {
      answer = await CTFd.fetch(API + path, { method, body: method === "GET" ? undefined : "{}" });
      body = await answer.json();
    } catch {
      throw new Error(UNREACHABLE);
    }
    if (body.success) return body.data;
    throw Object.assign(
      new Error(
        Object.values(body.errors ?? {})
          .flat()
          .join(" ") || UNREACHABLE,
      ),
      { status: answer.status },
    );
  };

  class StackdInstance extends HTMLElement {
    connectedCallback() {
      this.innerHTML = HTML;
      this.busy = false;
      this.turn = 0;
      this.one = (name) => this.querySelector(`.stackd-${name}`);
      for (const button of this.querySelectorAll("[data-do]")) {
        button.addEventListener("click", () => this.press(button.dataset.do));
        button.hidden = true;
      }
      this.listen = () => document.hidden || this.look();
      document.addEventListener("visibilitychange", this.listen);
      NEWS.addEventListener("message", this.listen);
      this.ticker = setInterval(() => this.tick(), 1000);
      this.look();
    }

    disconnectedCallback() {
      document.removeEventListener("visibilitychange", this.listen);
      NEWS.removeEventListener("message", this.listen);
      clearInterval(this.ticker);
      clearTimeout(this.timer);
    }

    get ofChallenge() {
      return `/challenges/${this.getAttribute("challenge")}`;
    }

    async look() {
      clearTimeout(this.timer);
      const turn = ++this.turn;
      const name = this.getAttribute("instance");
      let pause = 20000;
      try {
        const data = await request(name ? `/instances/${name}` : this.ofChallenge, "GET");
        if (turn !== this.turn || this.busy) return;
        if (this.lost) this.complain("");
        this.lost = false;
        this.show(data);
        pause = TRANSIENT.includes(data.status) || data.pending ? 1000 : 20000;
      } catch (error) {
        if (turn !== this.turn || this.busy) return;
        if (name && error.status === 404) this.show({ status: "none", addresses: [] });
        else {
          this.lost = true;
          this.complain(error.message);
          pause = 5000;
        }
      }
      if (this.isConnected && !document.hidden) this.timer = setTimeout(() => this.look(), pause);
    }

    async press(what) {
      if (this.busy) return;
      this.busy = true;
      this.turn += 1;
      this.enable();
      this.complain("");
      const instance = `/instances/${this.data.name}`;
      try {
        if (what === "start") this.show(await request(this.ofChallenge, "POST"));
        else if (what === "stop") this.show(await request(instance, "DELETE"));
        else this.show(await request(`${instance}/${what}`, "POST"));
        NEWS.postMessage(what);
      } catch (error) {
        this.complain(error.message);
      }
      this.busy = false;
      this.enable();
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.look(), 500);
    }

    show(data) {
      this.data = data;
      this.end = data.seconds_left == null ? null : Date.now() + data.seconds_left * 1000;
      const message = data.problem?.message ?? "";
      const alone = ["none", "failed"].includes(data.status) && message;
      this.say(alone ? message : `${TEXTS[data.status]} ${message}`.trim());
      const shown = JSON.stringify(data.addresses);
      if (shown !== this.shown) {
        this.shown = shown;
        this.one("addresses").replaceChildren(...data.addresses.map(({ text }) => this.address(text)));
      }
      const left = data.extensions_left;
      this.one("hint").textContent =
        data.status === "running" && left ? `Extend adds ${data.extension}; ${left} left.` : "";
      this.tick();
      this.enable();
    }

    address(text) {
      const item = document.createElement("li");
      item.className = "mb-1";
      const isLink = /^https?:\/\/\S+$/.test(text);
      const shown = document.createElement(isLink ? "a" : "code");
      if (isLink) Object.assign(shown, { href: text, target: "_blank", rel: "noopener" });
      shown.textContent = text;
      const copy = document.createElement("button");
      Object.assign(copy, {
        type: "button",
        className: "btn btn-sm btn-outline-secondary ml-2 ms-2",
        textContent: "Copy",
      });
      copy.setAttribute("aria-label", `Copy ${text}`);
      copy.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(text);
        } catch {
          getSelection().selectAllChildren(shown); // without TLS browsers give no clipboard
          if (!document.execCommand("copy")) return;
        }
        copy.textContent = "Copied";
        setTimeout(() => {
          copy.textContent = "Copy";
        }, 2000);
      });
      item.append(shown, copy);
      return item;
    }

    enable() {
      const status = this.data?.status;
      const extensible = status === "running" && this.data.extensions_left > 0;
      const wanted = {
        start: status === "none" && this.hasAttribute("challenge"),
        extend: extensible,
        restart: status === "running" || (status === "failed" && this.data.problem?.restart !== false),
        stop: Boolean(status) && status !== "none" && status !== "stopping",
      };
      const focused = document.activeElement;
      for (const button of this.querySelectorAll("[data-do]")) {
        button.hidden = !wanted[button.dataset.do];
        button.setAttribute("aria-disabled", this.busy);
        button.classList.toggle("disabled", this.busy);
      }
      this.setAttribute("aria-busy", this.busy);
      // A reader of the screen must not lose its place when the pressed button goes.
      if (focused?.hidden && this.contains(focused)) this.one("status").focus();
    }

    say(text) {
      if (this.one("status").textContent !== text) this.one("status").textContent = text;
    }

    complain(text) {
      this.one("error").textContent = text;
      this.one("error").hidden = !text;
    }

    tick() {
      const ticks = this.end != null && this.data?.status !== "none";
      this.one("time").hidden = !ticks;
      if (!ticks) return;
      const left = Math.max(0, Math.round((this.end - Date.now()) / 1000));
      this.querySelector("[role=timer]").textContent = clock(left);
      if (this.data.status === "running" && (left === 300 || left === 60))
        this.say(`${TEXTS.running} ${left === 300 ? "Five minutes are left." : "One minute is left."}`);
      if (left === 0 && !this.busy && Date.now() - this.end > 2000) {
        this.end = null;
        this.look();
      }
    }
  }
  customElements.define("stackd-instance", StackdInstance);
}
