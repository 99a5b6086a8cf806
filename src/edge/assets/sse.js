/**
 * Reads Server-Sent Events from the body of an answer. `EventSource` can neither post nor send a header, and a prompt
 * or a key must not stand in an address.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {(name: string, data: any) => void} each called for every named event, with its data read as JSON
 * @returns {Promise<void>} settles when the stream ends; rejects when it breaks
 */
export async function readEvents(body, each) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    blocks.forEach((block) => readEvent(block, each));
  }
}

function readEvent(block, each) {
  let name = null;
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (name) each(name, JSON.parse(data));
}
