// The players' boxes in CTFd: <stackd-instance> in a challenge's window, <stackd-instances> on the page "My instances".
// Elements of their own work in every theme, however the theme puts the window together.

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

globalThis.stackdInstances ??= (async () => {
  const ASSETS = `${CTFd.config.urlRoot}/plugins/stackd_instances/assets/`;
  const { Box, announce, arrange, load, say } = await import(`${ASSETS}box.js`);
  const { follow, request } = await import(`${ASSETS}feed.js`);
  const call = (path, method, body) => request(CTFd.fetch, `/api/v1/stackd/${path}`, method, body);
  const actions = {
    extend: ({ name }) => call(`instances/${name}/extend`, "POST"),
    restart: ({ name }) => call(`instances/${name}/restart`, "POST"),
    stop: ({ name }) => call(`instances/${name}`, "DELETE"),
  };

  class StackdElement extends HTMLElement {
    async connectedCallback() {
      this.texts ??= await load(`${ASSETS}locale/`, this.lang, ...navigator.languages);
      if (this.isConnected) this.feed ??= this.begin(this.texts);
    }

    disconnectedCallback() {
      this.feed?.stop();
      this.feed = null;
    }
  }

  class StackdInstance extends StackdElement {
    begin(texts) {
      const path = `challenges/${this.getAttribute("challenge")}`;
      const start = (_, instead) => call(path, "POST", instead ? { instead_of: instead } : {});
      this.box ??= new Box(this, { texts, actions: { start, ...actions }, look: () => this.feed?.tell() });
      const show = (state) => {
        this.box.show({ ...state, challenge: "" }); // the window has its name
        return [state];
      };
      const lose = (refusal) => this.box.lose(refusal);
      return follow(() => call(path), show, lose);
    }
  }

  class StackdInstances extends StackdElement {
    begin(texts) {
      const [heading, count, news, notice, list] = this.children;
      const box = { texts, actions, look: () => this.feed?.tell() };
      const make = () => new Box(document.createElement("div"), box);
      this.arrange ??= arrange(list, make);
      const linked = (state) => {
        const href = `${CTFd.config.urlRoot}/challenges#${encodeURIComponent(state.challenge)}-${state.challenge_id}`;
        return state.challenge_id ? { ...state, href } : state;
      };
      const show = ({ instances, limit, budget, spent, messages }) => {
        announce(news, messages);
        const used = instances.filter(({ status }) => status !== "none").length;
        say(heading, texts("mine"));
        say(
          count,
          [texts("used", { used, limit }), budget && texts("spent", { spent, budget })].filter(Boolean).join(" · "),
        );
        say(notice, instances.length ? "" : texts("nothing"));
        return this.arrange(instances.map(linked));
      };
      const lose = (refusal) => say(notice, texts.why(refusal, true));
      return follow(() => call("instances"), show, lose);
    }
  }
  customElements.define("stackd-instance", StackdInstance);
  customElements.define("stackd-instances", StackdInstances);
})();
