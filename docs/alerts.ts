import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { resolveConfig } from '../src/config/load.ts';
import type { AlertRule } from '../src/control/alerts/rule.ts';
import { ALERT_RULES } from '../src/control/alerts/rules.ts';

/*
 * Writes deploy/prometheus-rules.yaml and the table of docs/alerts.md from the rules themselves, with the defaults of the
 * configuration. `npm run docs` writes both; a test fails where one is stale.
 */

const RULES_FILE = fileURLToPath(new URL('../deploy/prometheus-rules.yaml', import.meta.url));
const PAGE = fileURLToPath(new URL('alerts.md', import.meta.url));
const BEGIN = '<!-- Written by docs/alerts.ts (npm run docs) from the code, up to the end of the table. -->\n';

const { alerts } = resolveConfig({ source: { url: 'postgres://localhost/a', tables: ['*.*'] } });

const seconds = (ms: number): string => `${ms / 1000}s`;

/** What Prometheus loads: the rules of the default configuration, of the same meaning. */
export function prometheusRules(): string {
  const rules = ALERT_RULES.flatMap((rule) => {
    const settings = alerts.rules[rule.key];
    return rule.prometheus(settings).map(({ alert, expr, severity = settings.severity, forMs, summary }) => ({
      alert,
      expr,
      for: seconds(forMs ?? settings.forMs),
      labels: { severity, rule: rule.name },
      annotations: { summary },
    }));
  });
  const head = `# Written by docs/alerts.ts (npm run docs) from the rules that Waltide looks at itself: docs/alerts.md. Thresholds are those of the
# default configuration. Load it by rule_files of prometheus.yml; promtool check rules checks it.
`;
  return head + stringify({ groups: [{ name: 'waltide', rules }] }, { lineWidth: 0 });
}

function line({ name, key, subjects, holds, prometheus }: AlertRule): string {
  const { enabled: _, severity, forMs, ...thresholds } = alerts.rules[key] as Record<string, unknown>;
  const set = Object.entries(thresholds).map(([threshold, value]) => `\`${threshold}: ${value}\``);
  const others = prometheus(alerts.rules[key]).map(({ alert }) => `\`${alert}\``);
  const cells = [
    `\`${name}\``,
    `\`${key}\``,
    holds,
    subjects,
    severity,
    seconds(Number(forMs)),
    set.join(', '),
    others.join(', '),
  ];
  return `| ${cells.join(' | ')} |`;
}

export function table(): string {
  return `${BEGIN}
| rule | in \`alerts.rules\` | holds where | subject | severity | \`forMs\` | thresholds | for Prometheus |
|---|---|---|---|---|---|---|---|
${ALERT_RULES.map(line).join('\n')}
`;
}

/** The page with its table as it should be. */
function page(): string {
  const text = readFileSync(PAGE, 'utf8');
  const begin = text.indexOf(BEGIN);
  const end = text.indexOf('\n\n', text.indexOf('\n|', begin));
  if (begin < 0 || end < 0) throw new Error(`${PAGE} has no place for the table`);
  return text.slice(0, begin) + table().trimEnd() + text.slice(end);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(RULES_FILE, prometheusRules());
  writeFileSync(PAGE, page());
}

/** Those of the two files that do not say what the code does. */
export const stale = (): string[] => [
  ...(readFileSync(RULES_FILE, 'utf8') === prometheusRules() ? [] : ['deploy/prometheus-rules.yaml']),
  ...(readFileSync(PAGE, 'utf8') === page() ? [] : ['docs/alerts.md']),
];
