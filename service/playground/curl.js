// The command that asks the same. The key is named, never shown.

export function curl(body, hasKey) {
  const lines = [`curl -N ${new URL("answer", document.baseURI)}`, "-H 'Content-Type: application/json'"];
  if (hasKey) lines.push('-H "Authorization: Bearer $RANKRAG_KEY"');
  lines.push(`-d ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
