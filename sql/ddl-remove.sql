-- Takes the capture trigger away (`waltide setup --no-ddl`). Harmless where there is none.
DROP EVENT TRIGGER IF EXISTS waltide_ddl_end;
DROP EVENT TRIGGER IF EXISTS waltide_ddl_drop;
DROP EVENT TRIGGER IF EXISTS waltide_ddl_rewrite;
DROP FUNCTION IF EXISTS waltide.ddl_capture();
DROP FUNCTION IF EXISTS waltide.ddl_touched();
DROP FUNCTION IF EXISTS waltide.ddl_emit(jsonb);
DROP FUNCTION IF EXISTS waltide.ddl_fence();
DROP FUNCTION IF EXISTS waltide.ddl_describe(oid);
