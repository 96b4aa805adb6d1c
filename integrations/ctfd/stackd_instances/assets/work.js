// Beside the page: finds the number after which the SHA-256 of a text begins with so many zero bits. The browser's own
// SHA-256 works on pages with TLS only, and answers each of some 200,000 short texts with a promise.

const fraction = (/** @type {number} */ number) => (number % 1) * 2 ** 32;
/** @type {number[]} */
const primes = [];
for (let number = 2; primes.length < 64; number++) if (primes.every((each) => number % each)) primes.push(number);
const K = /** @type {any} */ (Int32Array.from(primes, (prime) => fraction(Math.cbrt(prime))));
const FIRST = /** @type {any} */ (Int32Array.from(primes.slice(0, 8), (prime) => fraction(Math.sqrt(prime))));
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
    h = g;
    g = f;
    f = e;
    e = (d + one) | 0;
    d = c;
    c = b;
    b = a;
    a = (one + two) | 0;
  }
  const after = [a, b, c, d, e, f, g, h];
  for (let i = 0; i < 8; i++) state[i] += after[i];
}

addEventListener("message", ({ data: { challenge, bits } }) => {
  const text = new TextEncoder().encode(`${challenge}:`);
  const whole = text.length - (text.length % 64);
  for (let at = 0; at < whole; at += 64) add(FIRST, new DataView(text.buffer), at);
  const rest = new Uint8Array(128);
  rest.set(text.subarray(whole));
  const bytes = new DataView(rest.buffer);
  const hash = new Int32Array(8);
  for (let nonce = 0; ; nonce++) {
    if (nonce % 20000 === 0) postMessage({ tried: nonce });
    const digits = String(nonce);
    let end = text.length - whole;
    for (let i = 0; i < digits.length; i++) rest[end++] = digits.charCodeAt(i);
    rest.fill(0, end);
    rest[end] = 128;
    const size = end < 56 ? 64 : 128;
    bytes.setUint32(size - 4, 8 * (whole + end));
    hash.set(FIRST);
    for (let at = 0; at < size; at += 64) add(hash, bytes, at);
    if (Math.clz32(hash[0] ?? 0) >= bits) return postMessage({ nonce: digits });
  }
});
