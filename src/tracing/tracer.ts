import type { Batch, Delivery, TraceRef } from '../event/batch.ts';

/** Of work that is under way. */
export interface OpenSpan {
  /** What names it to whoever goes on with the work. */
  readonly ref: TraceRef;
  /** With what it failed, of which only the code is told: messages may hold values of rows. */
  end(error?: unknown): void;
}

/** Tells what became of a batch, and when. A few objects per batch, none per event. */
export interface Tracer {
  /** A batch with events has come from the source, at `receivedAtMs` (Unix), and is given to the transport. Ends once it is durable. */
  captured(batch: Batch, receivedAtMs: number): OpenSpan;
  /** A sink is given a delivery with events. Ends once it has taken it. */
  applying(sink: string, delivery: Delivery): OpenSpan;
  /** Sends what is left, within a few seconds. Never rejects. */
  close(): Promise<void>;
}
