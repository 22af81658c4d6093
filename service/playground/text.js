// Elements and pieces of text. Text is only ever set as text: nothing that comes from the service is markup.

export function element(name, { text, className, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// The service counts characters as code points; a string of JavaScript counts UTF-16 units.
export function sliced(text, start, end) {
  return Array.from(text).slice(start, end).join("");
}

// `text` with the first occurrence of `words` marked, case and white space aside.
export function marked(text, words) {
  const pattern = words.trim().split(/\s+/).map(escaped).join("\\s+");
  const found = pattern ? new RegExp(pattern, "iu").exec(text) : null;
  if (!found) return [text];
  const end = found.index + found[0].length;
  return [text.slice(0, found.index), element("mark", { text: found[0] }), text.slice(end)];
}

function escaped(word) {
  return word.replace(/[.*+?^${}()|[\]\\/-]/gu, "\\$&").replaceAll("\\-", "-");
}
