// The key. It is kept in each tab for as long as the tab is open, and handed from tab to tab of this browser, so that a
// person signs in once. It is never in an address, a cookie, or a storage that outlives the tabs.

const KEPT = "stackd.key";
const PATIENCE = 200; // other tabs answer within milliseconds

let received = () => {};
let forgotten = () => {};
const others = new BroadcastChannel(KEPT); // reaches the pages of this very origin only
const kept = () => sessionStorage.getItem(KEPT) ?? "";
/** A key that nobody knows yet to be good. */
let tried = "";
/** The question of this tab that may still be answered: a slow tab's answer may come after the key was forgotten. */
let asked = "";

const drop = () => {
  asked = "";
  sessionStorage.removeItem(KEPT);
};

others.addEventListener("message", ({ data }) => {
  if (data?.ask && kept()) others.postMessage({ key: kept(), asked: data.ask });
  else if (data?.forget) {
    drop();
    forgotten();
  } else if (typeof data?.key === "string" && data.key && !kept() && (data.asked ?? asked) === asked) {
    sessionStorage.setItem(KEPT, data.key);
    received();
  }
});

export const key = {
  get: () => tried || kept(),

  /** Use a key that may not be good. @param {string} text */
  try: (text) => {
    tried = text;
  },

  /** The key that was tried is good: it is kept, and the other tabs that have none take it. */
  keep: () => {
    sessionStorage.setItem(KEPT, tried);
    others.postMessage({ key: tried });
    tried = "";
  },

  /** It is not good, or no longer: this tab has none. */
  drop: () => {
    tried = "";
    drop();
  },

  /** Forget it in all tabs. */
  forget: () => {
    key.drop();
    others.postMessage({ forget: true });
  },

  /** What to do when another tab hands its key over, and when one has forgotten it. */
  listen: (/** @type {() => void} */ onReceived, /** @type {() => void} */ onForgotten) => {
    received = onReceived;
    forgotten = onForgotten;
  },

  /** Ask the other tabs for theirs. Whether there is one soon; one that comes later is received all the same. */
  ask: () =>
    new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        others.removeEventListener("message", answered);
        resolve(Boolean(kept()));
      };
      const answered = () => kept() && done();
      const timer = setTimeout(done, PATIENCE);
      others.addEventListener("message", answered);
      asked = crypto.getRandomValues(new Uint32Array(4)).join("-");
      others.postMessage({ ask: asked });
    }),
};
