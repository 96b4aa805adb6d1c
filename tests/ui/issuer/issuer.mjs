// A real issuer of OpenID Connect, certified: oidc-provider with its own pages for development, and people in memory.
// node issuer.mjs PORT REDIRECT; whoever signs in as NAME is NAME@example.org, and in the group of the part after a dot.

import Provider from "../../../.ci/js/node_modules/oidc-provider/lib/index.js";

const [port, redirect] = process.argv.slice(2);
const issuer = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "stackd",
      client_secret: "a-secret-of-the-client-0123456789",
      redirect_uris: [redirect],
      token_endpoint_auth_method: "client_secret_basic",
    },
  ],
  claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"] },
  pkce: { required: () => true },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      email: `${id}@example.org`,
      email_verified: !id.startsWith("new"),
      groups: [id.split(".")[1] ?? "players"],
    }),
  }),
});
issuer.listen(Number(port), "127.0.0.1", () => console.log("listening"));
