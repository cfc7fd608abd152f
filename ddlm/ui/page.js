// Copying a text, the keys, and what was typed when the page is loaded again. Everything else the server does.
document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  const story = button.closest(".sheet").querySelector(".story").cloneNode(true);
  story.querySelectorAll(".hidden").forEach((word) => word.remove());
  button.textContent = (await copied(story.textContent)) ? "Copied" : "Not copied";
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

const KEPT = "ddlm text";
const editor = () => document.querySelector("#text textarea");
addEventListener("pagehide", () => sessionStorage.setItem(KEPT, editor()?.value ?? ""));
const waiting = setInterval(() => {
  const text = sessionStorage.getItem(KEPT);
  if (text && !editor()) return;
  clearInterval(waiting);
  if (!text || editor().value) return;
  editor().value = text;
  editor().dispatchEvent(new Event("input", { bubbles: true }));
}, 100);
