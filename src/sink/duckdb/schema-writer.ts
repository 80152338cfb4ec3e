import type { Connection } from '@duckdb/node-bindings';
import { RejectedError } from '../../errors.ts';
import type { ChangeEvent } from '../../event/change-event.ts';
import { type Position, START } from '../../event/position.ts';
import { type Relation, relationName } from '../../event/relation.ts';
import { readSchemaChange, type SchemaChange } from '../../event/schema-change.ts';
import { typeName } from '../../event/type-name.ts';
import type { Log } from '../../log.ts';
import type { Adaptions } from './adaptions.ts';
import { type Alteration, type Alterations, alterationsByName, alterationsByNumber } from './change.ts';
import { type Layout, sqlName, type TableName } from './layout.ts';
import { foldName, quoteName, quoteText, shadowTable, targetSchema } from './names.ts';
import { checkRelation, rewriteSql, type SinkColumn } from './schema.ts';
import { readRows, type Shadow, type SinkTable, type State, type TableShape } from './state.ts';
import type { TableWriter } from './table.ts';

/** What a sink does with changes of the source's schema. See the configuration. */
export interface SchemaPolicy {
  readonly schemaChanges: 'evolve' | 'pause-table' | 'ignore-drops';
  readonly droppedTables: 'keep' | 'drop';
}

/** The parts of the file that a change of a schema needs. */
export interface SchemaWriterParts {
  readonly connection: Connection;
  readonly catalog: string;
  readonly state: State;
  readonly layout: Layout;
  readonly tables: TableWriter;
  readonly adaptions: Adaptions;
  readonly policy: SchemaPolicy;
  readonly log: Log;
}

/** Follows changes of the source's schema that concern stored rows or names, each at its place between the rows. */
export class SchemaWriter {
  readonly #parts: SchemaWriterParts;

  constructor(parts: SchemaWriterParts) {
    this.#parts = parts;
  }

  /**
   * An event with SCHEMA_MESSAGE. Throws a RejectedError where the table cannot follow; with `refill` where a new
   * snapshot of it can.
   */
  async told(event: ChangeEvent): Promise<void> {
    const relation = event.relation!;
    const change = readSchemaChange(event.message!.content);
    const table = this.#parts.state.table(relation);
    if (!change || !table || (oidOf(table) ?? relation.oid) !== relation.oid) return;
    if (change.kind === 'dropped') return this.#drop(table, change, event.position);
    await this.#follow(table, relation, change, event.position);
  }

  /** True where rows of this relation ask for more than columns of other types or without values. */
  needs(relation: Relation): boolean {
    const table = this.#parts.state.table(relation);
    if (!table || relation.columns.length === 0 || (oidOf(table) ?? relation.oid) !== relation.oid) return false;
    if (table.schema !== relation.schema || table.table !== relation.table) return true;
    return [table.live, table.shadow].some((shape) => {
      const held = new Set(shape?.columns.flatMap(({ name, live }) => (live ? [name] : [])));
      return shape && relation.columns.some(({ name, existing }) => existing !== undefined && !held.has(name));
    });
  }

  /** pgoutput described a table so. */
  async seen(relation: Relation): Promise<void> {
    await this.#follow(this.#parts.state.table(relation)!, relation, null, START);
  }

  async #follow(table: SinkTable, relation: Relation, change: SchemaChange | null, at: Position): Promise<void> {
    const { state, policy } = this.#parts;
    const { live, shadow, stopped } = table;
    if (stopped !== null && !shadow) return this.#followAside(table, relation);
    checkRelation(relation);
    const plan = (shape: TableShape | null): Alterations | null => shape && this.#plan(shape, relation, change);
    const forLive = stopped === null ? plan(live) : null;
    const forShadow = plan(shadow);
    const steps = [...(forLive?.steps ?? []), ...(forShadow?.steps ?? [])];
    const words = steps.flatMap(wordsOf);
    const renamed = table.schema !== relation.schema || table.table !== relation.table;
    if (policy.schemaChanges === 'pause-table' && forLive && (renamed || words.length > 0))
      throw new RejectedError(
        relation.schema,
        relation.table,
        `${relationName(table)} changed in the source (${[...words, ...(renamed ? [`now ${relationName(relation)}`] : [])].join(', ')}), and schemaChanges is pause-table`,
      );
    if (renamed) await this.#rename(table, relation);
    const name = this.#nameOf(relation);
    const nextLive = forLive && live ? await this.#alter(name, relation, forLive) : live;
    const shadowName = { ...name, table: shadowTable(name.table) };
    const shape = forShadow && shadow ? await this.#alter(shadowName, relation, forShadow) : null;
    const nextShadow: Shadow | null = shape && shadow ? { ...shape, snapshot: shadow.snapshot } : shadow;
    const { schema, table: bare } = relation;
    await state.saveTable({ ...table, schema, table: bare, live: nextLive, shadow: nextShadow });
    const applied = [...(renamed ? [`renamed from ${relationName(table)}`] : []), ...new Set(words)];
    if (applied.length > 0) await state.recordChange(relation, at, change?.command ?? null, applied.join('; '));
  }

  /** Of a table that is not followed only the name changes, where it can: another complaint would help nobody. */
  async #followAside(table: SinkTable, relation: Relation): Promise<void> {
    const { state, policy, log } = this.#parts;
    const { schema, table: bare } = relation;
    if (policy.schemaChanges === 'pause-table' || (table.schema === schema && table.table === bare)) return;
    try {
      checkRelation({ ...relation, columns: [] });
      await this.#rename(table, relation);
    } catch (error) {
      if (!(error instanceof RejectedError)) throw error;
      log.warn({ table: relationName(table) }, `${error.message}; it keeps its name here`);
      return;
    }
    await state.saveTable({ ...table, schema, table: bare });
  }

  #plan(shape: TableShape, relation: Relation, change: SchemaChange | null): Alterations {
    if (!change) return alterationsByName(shape.columns, relation);
    const keeps = this.#parts.policy.schemaChanges === 'ignore-drops';
    return alterationsByNumber(shape.columns, relation, change, keeps);
  }

  async #alter(name: TableName, relation: Relation, { after, steps }: Alterations): Promise<TableShape> {
    const { layout, tables, adaptions } = this.#parts;
    const columns = after.map((column) => adaptions.apply(relation, column));
    const adapted = ({ name: of }: SinkColumn): SinkColumn => columns.find((column) => column.name === of)!;
    for (const step of steps) {
      if (step.does === 'evolve') await layout.alter(name, step.before, columns);
      else if (step.does === 'fill') await tables.fill(sqlName(name), relation, adapted(step.column), step.text);
      else await layout.change(name, statementsOf(sqlName(name), step));
    }
    return { relation, columns };
  }

  /** Under the new name before anything else: rows that follow come under it. */
  async #rename(table: SinkTable, relation: Relation): Promise<void> {
    const { state, layout, log } = this.#parts;
    const from = this.#nameOf(table);
    const to = this.#nameOf(relation);
    const other = state.table({ schema: relation.schema, table: relation.table });
    if (other?.because === 'dropped') {
      log.warn({ table: relationName(other) }, 'the rows of a dropped table make room for another of its name');
      await layout.drop(to);
      await state.forgetTable(other);
    } else if (other)
      throw new RejectedError(
        relation.schema,
        relation.table,
        `${relationName(table)} is now called ${relationName(relation)}, which is another table's name here`,
      );
    else if (foldName(sqlName(from)) !== foldName(sqlName(to))) state.checkName(relation);
    if (table.live && foldName(sqlName(from)) !== foldName(sqlName(to))) await this.#checkFree(relation, to);
    if (table.live) await layout.move(from, to, table.live.columns);
    if (table.shadow) {
      const shadowOf = (name: TableName): TableName => ({ ...name, table: shadowTable(name.table) });
      await layout.move(shadowOf(from), shadowOf(to), table.shadow.columns);
    }
    await state.forgetTable(table);
    log.info({ table: relationName(table), renamedTo: relationName(relation) }, 'table was renamed in the source');
  }

  /** Throws a RejectedError where the file has something of that name that is not ours. */
  async #checkFree(relation: Relation, { catalog, schema, table }: TableName): Promise<void> {
    const same = (column: string, name: string): string => `lower(${column}) = lower(${quoteText(name)})`;
    const found = await readRows(
      this.#parts.connection,
      `SELECT table_type FROM information_schema.tables WHERE table_catalog = ${quoteText(catalog)}
         AND ${same('table_schema', schema)} AND ${same('table_name', table)}`,
    );
    if (found.length === 0) return;
    const why = `"${schema}"."${table}" exists in the DuckDB file but was not created by Waltide`;
    throw new RejectedError(relation.schema, relation.table, why);
  }

  async #drop(table: SinkTable, { command }: SchemaChange, at: Position): Promise<void> {
    const { state, layout, policy, log } = this.#parts;
    const name = this.#nameOf(table);
    if (table.shadow) await layout.drop({ ...name, table: shadowTable(name.table) });
    const drops = policy.droppedTables === 'drop' && policy.schemaChanges === 'evolve';
    if (!table.live || drops) {
      await layout.drop(name);
      await state.forgetTable(table);
    } else {
      const stopped = 'the source has dropped it; its rows are kept';
      await state.saveTable({ ...table, shadow: null, stopped, because: 'dropped' });
    }
    log.warn(
      { table: relationName(table) },
      drops ? 'table dropped, as in the source' : 'the source has dropped a table; its rows are kept',
    );
    await state.recordChange(
      table,
      at,
      command,
      drops ? 'dropped the table' : 'the source dropped the table; its rows are kept',
    );
  }

  #nameOf({ schema, table }: { readonly schema: string; readonly table: string }): TableName {
    return { catalog: this.#parts.catalog, schema: targetSchema(schema), table };
  }
}

const oidOf = ({ live, shadow }: SinkTable): number | undefined => (live ?? shadow)?.relation.oid || undefined;

function statementsOf(name: string, step: Exclude<Alteration, { does: 'evolve' | 'fill' }>): string[] {
  switch (step.does) {
    case 'drop':
      return [`ALTER TABLE ${name} DROP COLUMN ${quoteName(step.name)}`];
    case 'rename':
      return [`ALTER TABLE ${name} RENAME COLUMN ${quoteName(step.from)} TO ${quoteName(step.to)}`];
    case 'relabel': {
      const cases = [...step.labels].map(([from, to]) => `WHEN ${quoteText(from)} THEN ${quoteText(to)}`).join(' ');
      return rewriteSql(name, step.columns, (column, i) =>
        i === step.index
          ? `CASE ${quoteName(column.name)}::VARCHAR ${cases} ELSE ${quoteName(column.name)}::VARCHAR END`
          : null,
      );
    }
  }
}

/** What a step does, for people; nothing where it does nothing. */
function wordsOf(step: Alteration): string[] {
  switch (step.does) {
    case 'drop':
      return [`dropped column ${step.name}`];
    case 'rename':
      return step.to.startsWith('_waltide_') ? [] : [`renamed column ${step.from} to ${step.to}`];
    case 'relabel':
      return [...step.labels].map(([from, to]) => `renamed label ${from} to ${to}`);
    case 'fill':
      return [`filled column ${step.column.name}`];
    case 'evolve':
      return step.after.flatMap((column, i) => {
        const old = step.before[i];
        if (!old) return [`added column ${column.name}`];
        if (old.live !== column.live) return [`column ${column.name} is no longer in the source`];
        const same = typeName(old.type, old.modifier) === typeName(column.type, column.modifier);
        return same && old.generation === column.generation ? [] : [`changed column ${column.name}`];
      });
  }
}
