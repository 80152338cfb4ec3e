-- The capture trigger: tells of every change of a table's shape in the WAL itself, in order with the data. It writes one
-- transactional logical message (prefix waltide.ddl, JSON in UTF-8) per changed table, and nothing else. Installed by
-- `waltide setup --ddl`, removed by `waltide setup --no-ddl`; PostgreSQL 14 and later. It never makes a command fail,
-- unless somebody asks for it: ALTER DATABASE … SET waltide.ddl_strict = on.

-- The table as it is now.
CREATE OR REPLACE FUNCTION waltide.ddl_describe(relid oid) RETURNS jsonb LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS $describe$
WITH RECURSIVE
  col AS (SELECT a.* FROM pg_attribute a WHERE a.attrelid = relid AND a.attnum > 0),
  typ AS (
    SELECT col.atttypid AS oid FROM col WHERE NOT col.attisdropped
    UNION
    SELECT part.oid FROM typ JOIN pg_type t ON t.oid = typ.oid CROSS JOIN LATERAL (VALUES (t.typelem), (t.typbasetype)) AS part(oid)
    WHERE part.oid <> 0
  ),
  leaf AS (SELECT p.relid AS oid FROM pg_partition_tree(relid) p WHERE p.isleaf AND p.relid <> ddl_describe.relid)
SELECT jsonb_build_object(
  'oid', c.oid::bigint,
  'schema', n.nspname,
  'table', c.relname,
  'persistence', c.relpersistence,
  'replicaIdentity', c.relreplident,
  'key', COALESCE((
    SELECT jsonb_agg(k.attnum ORDER BY k.attnum)
    FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, position)
    WHERE i.indrelid = c.oid AND k.position <= i.indnkeyatts AND i.indimmediate
      AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END), '[]'),
  'columns', COALESCE((
    SELECT jsonb_agg(jsonb_build_object(
      'attnum', col.attnum,
      'name', col.attname,
      'typeOid', col.atttypid::bigint,
      'modifier', col.atttypmod,
      'generated', col.attgenerated <> '',
      'notNull', col.attnotnull,
      'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = c.oid AND d.adnum = col.attnum),
      'hasDefault', col.atthasdef OR col.attidentity <> ''
        OR EXISTS (SELECT FROM pg_type t WHERE t.oid = col.atttypid AND t.typdefault IS NOT NULL),
      -- What rows of before the column hold in it, as an array of one. The partitions know where a partitioned table does not.
      'missing', CASE WHEN c.relkind = 'p' THEN (
          SELECT a.attmissingval::text FROM leaf JOIN pg_attribute a ON a.attrelid = leaf.oid
          WHERE a.attname = col.attname AND NOT a.attisdropped AND a.atthasmissing LIMIT 1)
        WHEN col.atthasmissing THEN col.attmissingval::text END,
      'delimiter', (SELECT t.typdelim FROM pg_type t WHERE t.oid = col.atttypid)
    ) ORDER BY col.attnum) FROM col WHERE NOT col.attisdropped), '[]'),
  'dropped', COALESCE((SELECT jsonb_agg(col.attnum ORDER BY col.attnum) FROM col WHERE col.attisdropped), '[]'),
  -- Types that not every server has, as they are now: the catalog may have moved on when this is read.
  'types', COALESCE((
    SELECT jsonb_agg(jsonb_build_object(
      'oid', t.oid::bigint, 'name', t.typname, 'schema', tn.nspname, 'typtype', t.typtype, 'elem', t.typelem::bigint,
      'is_array', t.typlen = -1 AND t.typelem <> 0 AND EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid),
      'base', t.typbasetype::bigint, 'modifier', t.typtypmod, 'delimiter', t.typdelim,
      'labels', COALESCE((SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), '[]'),
      'label_oids', COALESCE((SELECT jsonb_agg(e.oid::bigint ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), '[]')))
    FROM typ JOIN pg_type t ON t.oid = typ.oid JOIN pg_namespace tn ON tn.oid = t.typnamespace
    WHERE t.oid >= 16384), '[]'),
  -- What publications leave out: lists of columns (15+), and generated columns (always before 18).
  'publications', COALESCE((
    SELECT jsonb_object_agg(p.pubname, jsonb_build_object(
      'columns', (SELECT to_jsonb(r) -> 'prattrs' FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid),
      'generated', COALESCE(to_jsonb(p) ->> 'pubgencols', 'n') = 's'))
    FROM pg_publication p), '{}'),
  'partitions', COALESCE((SELECT jsonb_agg(leaf.oid::bigint ORDER BY leaf.oid) FROM leaf), '[]'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relid
$describe$;

CREATE OR REPLACE FUNCTION waltide.ddl_emit(content jsonb) RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS $emit$
SELECT pg_logical_emit_message(true, 'waltide.ddl', convert_to((jsonb_build_object('version', 1) || content)::text, 'UTF8'))
$emit$;

-- A message stands in the decoded order at the end of its record, a row at the beginning of its own. With another
-- subtransaction than the message's, a row right after it could come before it: so something else comes between.
CREATE OR REPLACE FUNCTION waltide.ddl_fence() RETURNS void LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS $fence$
SELECT pg_logical_emit_message(false, 'waltide.ddl', '')
$fence$;

-- The tables that the command under way has changed. Only inside of ddl_command_end.
-- indirect: columns whose values may look different though their type is the same: a composite or range changed inside.
CREATE OR REPLACE FUNCTION waltide.ddl_touched() RETURNS TABLE (relid oid, indirect int2[]) LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp AS $touched$
WITH RECURSIVE
  command AS MATERIALIZED (SELECT c.classid, c.objid, c.command_tag FROM pg_event_trigger_ddl_commands() c WHERE c.objid IS NOT NULL),
  altered AS MATERIALIZED (SELECT * FROM command WHERE command_tag LIKE 'ALTER%'),
  changed(oid, inside) AS (
    SELECT objid, false FROM altered WHERE classid = 'pg_type'::regclass
    UNION
    SELECT r.reltype, true FROM altered JOIN pg_class r ON r.oid = objid WHERE classid = 'pg_class'::regclass AND r.reltype <> 0
    UNION
    SELECT next.oid, changed.inside OR next.inside FROM changed CROSS JOIN LATERAL (
      SELECT t.oid, false FROM pg_type t WHERE t.typbasetype = changed.oid OR t.typelem = changed.oid
      UNION ALL
      SELECT t.oid, true FROM pg_range r CROSS JOIN LATERAL (VALUES (r.rngtypid), (r.rngmultitypid)) AS t(oid) WHERE r.rngsubtype = changed.oid
      UNION ALL
      SELECT owner.reltype, true FROM pg_attribute a JOIN pg_class owner ON owner.oid = a.attrelid
      WHERE a.atttypid = changed.oid AND a.attnum > 0 AND NOT a.attisdropped AND owner.reltype <> 0
    ) AS next(oid, inside)
  ),
  direct(oid) AS (
    SELECT objid FROM command WHERE classid = 'pg_class'::regclass
    UNION
    -- A partition that comes or goes is news of the tables above it.
    SELECT a.relid FROM command CROSS JOIN LATERAL pg_partition_ancestors(objid) a WHERE classid = 'pg_class'::regclass
    UNION
    SELECT r.prrelid FROM command JOIN pg_publication_rel r ON r.oid = objid WHERE classid = 'pg_publication_rel'::regclass
    UNION
    SELECT c.oid FROM altered JOIN pg_class c ON c.relnamespace = objid WHERE classid = 'pg_namespace'::regclass
    UNION
    SELECT a.attrelid FROM changed JOIN pg_attribute a ON a.atttypid = changed.oid WHERE a.attnum > 0 AND NOT a.attisdropped
  ),
  -- What is done to a table is done to those that inherit from it, without a word about them.
  family(oid) AS (
    SELECT oid FROM direct UNION SELECT i.inhrelid FROM family JOIN pg_inherits i ON i.inhparent = family.oid
  )
SELECT c.oid, ARRAY(
    SELECT a.attnum FROM pg_attribute a JOIN changed ON changed.oid = a.atttypid AND changed.inside
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1)
FROM family JOIN pg_class c ON c.oid = family.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'waltide')
ORDER BY c.oid
$touched$;

CREATE OR REPLACE FUNCTION waltide.ddl_capture() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- Values print as on Waltide's own connections.
SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC' SET extra_float_digits = 3
SET bytea_output = 'hex' SET lc_monetary = 'C' SET xmlbinary = 'base64' AS $capture$
DECLARE
  one record;
  told boolean := false;
  -- Tables that the command has rewritten so far: {"<oid>": {"reason": n, "plain": b}}. In a setting until the command ends.
  rewritten jsonb := COALESCE(NULLIF(current_setting('waltide.ddl_rewritten', true), ''), '{}')::jsonb;
BEGIN
  IF tg_event = 'table_rewrite' THEN
    PERFORM set_config('waltide.ddl_rewritten', (rewritten || jsonb_build_object(
      pg_event_trigger_table_rewrite_oid()::text, jsonb_build_object(
        'reason', pg_event_trigger_table_rewrite_reason(),
        -- True where only the types' own casts can have converted values: the client sent this command alone, without USING.
        'plain', current_query() ~* '^(\s|--[^\n]*\n|/\*[^*]*\*/)*alter\s+table\M[^;]*;?\s*$'
                 AND current_query() !~* '\musing\M')))::text, true);

  ELSIF tg_event = 'sql_drop' THEN
    FOR one IN
      SELECT d.objid, d.schema_name, d.object_name FROM pg_event_trigger_dropped_objects() d
      WHERE d.classid = 'pg_class'::regclass AND d.object_type = 'table' AND d.objsubid = 0 AND NOT d.is_temporary
    LOOP
      told := true;
      PERFORM waltide.ddl_emit(jsonb_build_object('event', 'drop', 'command', tg_tag,
        'oid', one.objid::bigint, 'schema', one.schema_name, 'table', one.object_name));
    END LOOP;
    -- DROP TYPE … CASCADE and the like take columns. ALTER TABLE ends with ddl_command_end, which tells of them.
    IF tg_tag <> 'ALTER TABLE' THEN
      FOR one IN
        SELECT DISTINCT c.oid FROM pg_event_trigger_dropped_objects() d JOIN pg_class c ON c.oid = d.objid
        WHERE d.classid = 'pg_class'::regclass AND d.objsubid > 0 AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
      LOOP
        told := true;
        PERFORM waltide.ddl_emit(waltide.ddl_describe(one.oid) || jsonb_build_object(
          'event', 'alter', 'command', tg_tag, 'rewrite', 0, 'plain', true, 'indirect', '[]'::jsonb));
      END LOOP;
    END IF;

  ELSE
    FOR one IN SELECT * FROM waltide.ddl_touched() LOOP
      told := true;
      PERFORM waltide.ddl_emit(waltide.ddl_describe(one.relid)
        || jsonb_build_object('event', 'alter', 'command', tg_tag, 'indirect', to_jsonb(one.indirect))
        -- A partitioned table was rewritten where one of its partitions was.
        || (SELECT jsonb_build_object('rewrite', COALESCE(bit_or((value ->> 'reason')::int), 0), 'plain', COALESCE(bool_and((value ->> 'plain')::boolean), true))
            FROM jsonb_each(rewritten)
            WHERE key::oid = one.relid OR key::oid IN (SELECT p.relid FROM pg_partition_tree(one.relid) p)));
    END LOOP;
    PERFORM set_config('waltide.ddl_rewritten', '', true);
  END IF;
  IF told THEN
    PERFORM waltide.ddl_fence();
  END IF;
EXCEPTION WHEN OTHERS THEN
  IF current_setting('waltide.ddl_strict', true) = 'on' THEN
    RAISE;
  END IF;
  PERFORM waltide.ddl_emit(jsonb_build_object('event', 'failed', 'command', tg_tag, 'error', SQLERRM));
  PERFORM waltide.ddl_fence();
  RAISE WARNING 'waltide could not describe what % changed: %', tg_tag, SQLERRM
    USING HINT = 'The command is not affected. Waltide logs which tables to copy again.';
END $capture$;

DROP EVENT TRIGGER IF EXISTS waltide_ddl_end;
DROP EVENT TRIGGER IF EXISTS waltide_ddl_drop;
DROP EVENT TRIGGER IF EXISTS waltide_ddl_rewrite;
CREATE EVENT TRIGGER waltide_ddl_end ON ddl_command_end EXECUTE FUNCTION waltide.ddl_capture();
CREATE EVENT TRIGGER waltide_ddl_drop ON sql_drop EXECUTE FUNCTION waltide.ddl_capture();
CREATE EVENT TRIGGER waltide_ddl_rewrite ON table_rewrite EXECUTE FUNCTION waltide.ddl_capture();
-- Also in sessions that replay somebody else's replication.
ALTER EVENT TRIGGER waltide_ddl_end ENABLE ALWAYS;
ALTER EVENT TRIGGER waltide_ddl_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER waltide_ddl_rewrite ENABLE ALWAYS;

-- From here on the numbers of columns, the partitions and the defaults of every published table are known.
SELECT waltide.ddl_emit(waltide.ddl_describe(t.relid) || jsonb_build_object(
  'event', 'alter', 'command', 'SETUP', 'rewrite', 0, 'plain', true, 'indirect', '[]'::jsonb))
FROM (SELECT DISTINCT format('%I.%I', schemaname, tablename)::regclass::oid AS relid FROM pg_publication_tables) t;
