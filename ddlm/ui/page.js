// Copying a text, the keys, and a server that goes away: the page says so, waits, and keeps what was typed and set.
// Everything else the server does.
document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  const story = button.closest(".sheet").querySelector(".story").cloneNode(true);
  story.querySelectorAll(".hidden, i").forEach((word) => word.replaceWith(BLANK));
  button.textContent = (await copied(withGaps(story.textContent))) ? "Copied" : "Not copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

/** Browsers keep their clipboard from pages without HTTPS, but not from what is selected in them. */
async function copied(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const area = Object.assign(document.createElement("textarea"), { value: text });
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  return isDone;
}

document.addEventListener("keydown", (event) => {
  const id = event.key === "Escape" ? "stop" : event.key === "Enter" && (event.ctrlKey || event.metaKey) ? "write" : null;
  const button = id && document.getElementById(id);
  if (!button || button.disabled) return;
  event.preventDefault();
  document.activeElement.blur(); // what is being typed is told to the page
  setTimeout(() => button.click(), 50);
}, true);

const [KEPT, MODEL] = ["ddlm controls", "ddlm model"];
const read = (name) => JSON.parse(sessionStorage.getItem(name) ?? "null");
const keep = (name, value) => void sessionStorage.setItem(name, JSON.stringify(value));
/** What the page's events call: values of the controls are kept as long as the tab is open. */
window.ddlm = {
  keep: (values) => keep(KEPT, values),
  restored: (values) => (read(KEPT)?.length === values.length ? read(KEPT) : values),
  keepModel: (name) => keep(MODEL, name),
  model: () => read(MODEL) ?? "",
};

const [ASK_MS, PATIENCE_MS] = [2000, 5000];
const AWAY = "The server does not answer. This page waits for it and loads itself again; what is typed and set is kept.";
const alive = new URL(`${location.pathname.replace(/\/$/, "")}/alive`, location);
const server = { process: null, misses: 0, notice: null };

/** Which process answers; null when none does. */
async function answering() {
  try {
    const answer = await fetch(alive, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    return answer.ok ? await answer.text() : null;
  } catch {
    return null;
  }
}

async function look() {
  const process = await answering();
  if (process && server.process && (server.notice || process !== server.process)) return location.reload();
  server.process ??= process;
  server.misses = process ? 0 : server.misses + 1;
  if (server.misses === 2 && !server.notice) {
    server.notice = Object.assign(document.createElement("p"), { id: "away", role: "alert", textContent: AWAY });
    document.body.append(server.notice);
  }
  setTimeout(look, ASK_MS);
}
look();
