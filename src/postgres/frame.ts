/*
 * Backend messages (PostgreSQL manual, "Message Formats"): Byte1 type, Int32 length including itself, body.
 */

/** Type byte and Int32 length. */
export const HEADER_LENGTH = 5;

/**
 * Puts chunks of a socket together into whole messages. Bytes handed out are never reused, so that events may keep
 * slices of them until they are durable.
 */
export class FrameBuffer {
  #chunks: Buffer[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** Gives back what was taken but belongs to the next reader. */
  unread(frames: Buffer): void {
    this.#chunks.unshift(frames);
    this.#length += frames.length;
  }

  /** All whole messages so far, contiguous, or null when there is none yet. What is left waits for more chunks. */
  take(): Buffer | null {
    if (this.#length < HEADER_LENGTH || this.#length < this.#firstFrameLength()) return null;
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks, this.#length);
    const end = wholeLength(all);
    // A copy, since a slice would keep the whole buffer alive for a few bytes.
    const rest = end < all.length ? Buffer.from(all.subarray(end)) : null;
    this.#chunks = rest ? [rest] : [];
    this.#length = rest ? rest.length : 0;
    return end === all.length ? all : all.subarray(0, end);
  }

  /**
   * As `take`, but in parts that are left where they came: only a message that chunks share is put together. Where messages are small
   * and chunks are not, hardly any byte is copied; chunks below `partBytesMin` on average are joined. Empty when there is no whole
   * message yet.
   */
  takeParts(partBytesMin = 8192): Buffer[] {
    if (this.#length < this.#chunks.length * partBytesMin) {
      const all = this.take();
      return all ? [all] : [];
    }
    const parts: Buffer[] = [];
    let begun: Buffer[] = [];
    let have = 0;
    for (const next of this.#chunks) {
      let chunk = next;
      if (have >= HEADER_LENGTH) {
        const lacking = 1 + begun[0]!.readUInt32BE(1) - have;
        if (lacking > chunk.length) {
          begun.push(chunk);
          have += chunk.length;
          continue;
        }
        parts.push(Buffer.concat([...begun, chunk.subarray(0, lacking)]));
        chunk = chunk.subarray(lacking);
      } else if (have > 0) chunk = Buffer.concat([...begun, chunk]);
      const end = wholeLength(chunk);
      if (end > 0) parts.push(chunk.subarray(0, end));
      have = chunk.length - end;
      // A copy, as above.
      begun = have === 0 ? [] : [end > 0 ? Buffer.from(chunk.subarray(end)) : chunk];
    }
    this.#chunks = begun;
    this.#length = have;
    return parts;
  }

  /** Looked at before joining chunks: joining again for each chunk of a 1 GB message would be quadratic. */
  #firstFrameLength(): number {
    const first = this.#chunks[0]!;
    if (first.length < HEADER_LENGTH) {
      this.#chunks = [Buffer.concat(this.#chunks, this.#length)];
      return this.#firstFrameLength();
    }
    return 1 + first.readUInt32BE(1);
  }
}

/** Where the last whole message ends. */
function wholeLength(bytes: Buffer): number {
  let end = 0;
  while (end + HEADER_LENGTH <= bytes.length) {
    const next = end + 1 + bytes.readUInt32BE(end + 1);
    if (next > bytes.length) break;
    end = next;
  }
  return end;
}
