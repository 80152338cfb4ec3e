import { RejectedBatchError } from '../../src/errors.ts';
import type { Delivery } from '../../src/event/batch.ts';
import { AppendSink } from '../crash/append-sink.ts';

/** Appends, and refuses every batch with a row whose second column is NaN. */
export class PoisonSink extends AppendSink {
  override async apply(delivery: Delivery): Promise<boolean> {
    if (delivery.events.some(({ after }) => after?.text(1) === 'NaN')) throw new RejectedBatchError('it holds NaN');
    return super.apply(delivery);
  }
}
