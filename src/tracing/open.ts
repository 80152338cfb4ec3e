import type { Config } from '../config/schema.ts';
import { WaltideError } from '../errors.ts';
import type { Log } from '../log.ts';
import type { Tracer } from './tracer.ts';

/** What a user of OpenTelemetry sets for every program. */
function fromEnvironment(env: NodeJS.ProcessEnv): boolean {
  if (env.OTEL_SDK_DISABLED?.toLowerCase() === 'true') return false;
  return Boolean(env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT || env.OTEL_EXPORTER_OTLP_ENDPOINT);
}

/**
 * Null where neither `tracing.endpoint` nor OpenTelemetry's own variables ask for it: then nothing of OpenTelemetry is
 * loaded. Rejects with CONFIG_INVALID where its packages, which are optional, are not installed.
 */
export async function openTracer(
  { tracing, source }: Pick<Config, 'tracing' | 'source'>,
  log: Log,
  env: NodeJS.ProcessEnv = process.env,
): Promise<Tracer | null> {
  if (tracing.endpoint === undefined && !fromEnvironment(env)) return null;
  const { OtlpTracer } = await import('./otlp.ts').catch((cause: unknown) => {
    throw new WaltideError(
      'CONFIG_INVALID',
      'traces are asked for, and the packages of OpenTelemetry are not installed',
      'Install Waltide with its optional dependencies, or leave tracing.endpoint and OTEL_EXPORTER_OTLP_ENDPOINT out.',
      { cause },
    );
  });
  return new OtlpTracer(tracing, source.slot, log);
}
