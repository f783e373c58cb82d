"use strict";
/* It stands before the models, so that it can tell that the rest is missing or damaged. */
const DAMAGED = "this file is incomplete or damaged, and must be copied or written again.";

const problem = document.getElementById("problem");
problem.textContent = "Loading…";

function fail(reason) {
  problem.textContent = `The page can’t be shown: ${reason}`;
  problem.scrollIntoView({ block: "nearest" });
}
addEventListener("error", ({ error: { name, message } }) =>
  fail(name === "SyntaxError" ? DAMAGED : message));
addEventListener("unhandledrejection", ({ reason }) => fail(reason.message));
addEventListener("DOMContentLoaded", () => {
  if (!window.DecompressionStream) fail("it needs a browser of 2023 or later.");
  else if (!window.recall) fail(DAMAGED); // the last script did not come
});
