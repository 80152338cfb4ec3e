import type { Config } from '../../config/schema.ts';
import { type Check, type Finding, fail, few, ok, type Subject, warn } from './check.ts';

/** Brokers that were named, and those that they name themselves, are asked this many at most. */
const ASKED_MAX = 20;

/** Whether brokers answer as the transport will ask them; nothing for a transport without any. */
export function kafkaChecks({ transport }: Config): Check<Subject>[] {
  if (transport.type !== 'kafka') return [];
  const run = async (): Promise<Finding | Finding[]> => {
    const { probeBroker } = await import('../../transport/kafka/probe.ts');
    const ask = (brokers: readonly string[]) =>
      Promise.all(
        brokers.slice(0, ASKED_MAX).map(async (broker) => ({ broker, probe: await probeBroker(transport, broker) })),
      );
    const answers = await ask(transport.brokers);
    const advertised = new Set(answers.flatMap(({ probe }) => (probe.ok ? probe.advertised : [])));
    const problems = answers.flatMap(({ broker, probe }) =>
      probe.ok ? [] : [{ ...probe, problem: `${broker} ${probe.problem}` }],
    );
    const none = problems.length === answers.length;
    if (none) return problems.map(({ problem, remedy }) => fail(problem, remedy));
    const others = await ask([...advertised].filter((broker) => !transport.brokers.includes(broker)));
    const findings = problems.map(({ problem, remedy }) => warn(problem, remedy));
    for (const { broker, probe } of others)
      if (!probe.ok)
        findings.push(
          fail(
            `the cluster names ${broker} as one of its brokers, which ${probe.problem}`,
            "Correct the broker's advertised.listeners, or the way there: after the first contact only those addresses are used.",
          ),
        );
    if (findings.length > 0) return findings;
    return ok(`${few([...advertised])} ${advertised.size === 1 ? 'answers' : 'answer'}`);
  };
  return [{ name: 'Kafka', run }];
}
