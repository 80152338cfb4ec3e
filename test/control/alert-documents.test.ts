import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseDocument } from 'yaml';
import { prometheusRules, stale } from '../../docs/alerts.ts';
import { SEVERITIES } from '../../src/config/schema.ts';
import { ALERT_RULES } from '../../src/control/alerts/rules.ts';
import { FAMILIES } from '../../src/metrics/metrics.ts';

interface PrometheusRule {
  readonly alert: string;
  readonly expr: string;
  readonly for: string;
  readonly labels: { readonly severity: string; readonly rule: string };
  readonly annotations: { readonly summary: string };
}

const metrics = new Map(FAMILIES.flatMap(([, families]) => families).map((family) => [family.name, family]));

it('docs/alerts.md and deploy/prometheus-rules.yaml are what docs/alerts.ts writes: run `npm run docs` where this fails', () => {
  expect(stale()).toEqual([]);
});

describe('deploy/prometheus-rules.yaml', () => {
  const document = parseDocument(prometheusRules());
  const { groups } = document.toJS() as { groups: { name: string; rules: PrometheusRule[] }[] };
  const rules = groups.flatMap((group) => group.rules);

  it('is YAML of the form that Prometheus loads, and has every rule', () => {
    expect([...document.errors, ...document.warnings]).toEqual([]);
    expect(groups.map(({ name }) => name)).toEqual(['waltide']);
    expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
    expect(new Set(rules.map(({ labels }) => labels.rule))).toEqual(new Set(ALERT_RULES.map(({ name }) => name)));
    for (const { alert, for: time, labels, annotations } of rules) {
      expect(alert).toMatch(/^Waltide[A-Z][A-Za-z]+$/);
      expect(time).toMatch(/^\d+s$/);
      expect(SEVERITIES).toContain(labels.severity);
      expect(annotations.summary).toMatch(/\.$/);
    }
  });

  it('asks for metrics that there are, by labels and states that they have', () => {
    for (const { alert, expr, annotations } of rules) {
      const named = [...expr.matchAll(/\b(waltide_\w+)(?:\{(\w+)[!=~]+"([^"]*)"\})?/g)];
      expect(named.length, alert).toBeGreaterThan(0);
      for (const [, metric, label] of named) {
        const family = metrics.get(metric!);
        expect(family, `${alert}: ${metric}`).toBeDefined();
        if (label) expect(family!.labels, `${alert}: ${metric}`).toContain(label);
      }
      const shown = [...annotations.summary.matchAll(/\$labels\.(\w+)/g)].map(([, label]) => label);
      const known = named.flatMap(([, metric]) => metrics.get(metric!)!.labels as readonly string[]);
      for (const label of shown) expect(known, alert).toContain(label);
    }
  });

  it('states that it names are states of the code', () => {
    const source = ['src/pipeline/status.ts', 'src/metrics/sink-families.ts']
      .map((file) => readFileSync(file, 'utf8'))
      .join('');
    for (const { expr } of rules)
      for (const [, states] of expr.matchAll(/(?:state|level)=~?"([^"]*)"/g))
        for (const state of states!.split('|')) expect(source).toContain(`'${state}'`);
  });
});
