// Beside the page: finds the number after which the SHA-256 of a text begins with so many zero bits. The browser's own
// SHA-256 works on pages with TLS only, and answers each of some 200,000 short texts with a promise.

const FROM = 1e9; // each number has ten digits: the length of the text stays
/** @type {number[]} */
const primes = [];
for (let number = 2; primes.length < 64; number++) if (primes.every((each) => number % each)) primes.push(number);
const constants = (/** @type {(prime: number) => number} */ root) => primes.map((prime) => (root(prime) % 1) * 2 ** 32);
const K = /** @type {any} */ (Int32Array.from(constants(Math.cbrt)));
const FIRST = Int32Array.from(constants(Math.sqrt).slice(0, 8));
const words = /** @type {any} */ (new Int32Array(64));

/** Hash the block of 64 bytes on top of the state. @param {any} state @param {DataView} bytes @param {number} at */
function add(state, bytes, at) {
  for (let i = 0; i < 16; i++) words[i] = bytes.getInt32(at + 4 * i);
  for (let i = 16; i < 64; i++) {
    const x = words[i - 15];
    const y = words[i - 2];
    const low = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const high = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    words[i] = (words[i - 16] + low + words[i - 7] + high) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const high = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const one = (h + high + ((e & f) ^ (~e & g)) + K[i] + words[i]) | 0;
    const low = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const two = (low + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [a, b, c, d, e, f, g, h] = [(one + two) | 0, a, b, c, (d + one) | 0, e, f, g];
  }
  const after = [a, b, c, d, e, f, g, h];
  for (let i = 0; i < 8; i++) state[i] += after[i];
}

addEventListener("message", ({ data: { challenge, bits } }) => {
  const text = new TextEncoder().encode(`${challenge}:${FROM}`);
  const bytes = new Uint8Array(64 * Math.ceil((text.length + 9) / 64));
  bytes.set(text);
  bytes[text.length] = 128;
  const view = new DataView(bytes.buffer);
  view.setUint32(bytes.length - 4, 8 * text.length);
  let same = 0; // what stands before the number is hashed once
  for (; same + 64 <= text.length - 10; same += 64) add(FIRST, view, same);
  const hash = new Int32Array(8);
  for (let tried = 0; ; tried++) {
    if (tried % 20000 === 0) postMessage({ tried });
    const nonce = String(FROM + tried);
    for (let i = 0; i < 10; i++) bytes[text.length - 10 + i] = nonce.charCodeAt(i);
    hash.set(FIRST);
    for (let at = same; at < bytes.length; at += 64) add(hash, view, at);
    if (Math.clz32(hash[0] ?? 0) >= bits) return postMessage({ nonce });
  }
});
