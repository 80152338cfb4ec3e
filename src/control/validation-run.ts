import type { Run } from '../postgres/tracked.ts';
import type { ValidationReport, ValidationRequest } from '../validation/report.ts';
import type { ValidationWatch } from '../validation/validator.ts';

/**
 * Validations that somebody asks for are runs of one type: two at once would only slow each other down. Those of a schedule are
 * runs of its name: a look at one key must not stand for what is proven every night.
 */
export const VALIDATION_RUN = 'validation:manual';

/** Something that compares its sinks with the source. */
export interface Validates {
  /** Rejects with USAGE where `validate` would, as far as that can be told without reading rows. */
  checkValidation(request: ValidationRequest): Promise<void>;
  validate(request: ValidationRequest, watch: ValidationWatch): Promise<ValidationReport>;
}

/** Compares as one tracked run: how far it is, and the id of its record, are in the run's metadata. */
export function validationRun(
  target: Pick<Validates, 'validate'>,
  request: ValidationRequest,
): (run: Run) => Promise<ValidationReport> {
  return async (run) => {
    const report = await target.validate(request, {
      signal: run.signal,
      onBegin: (id) => run.progress({ metadata: { validation: id } }),
      onProgress: ({ rows, ...progress }) => run.progress({ records: rows, metadata: progress }),
    });
    const { ok, score, tables } = report;
    run.progress({ records: tables.reduce((sum, table) => sum + table.sourceRows, 0), metadata: { ok, score } });
    return report;
  };
}
