"""Compares one table of PostgreSQL with its copy in a DuckDB file by PyPI's data-diff; prints JSON. For bench/validate.ts."""

import json
import resource
import sys
import time

from data_diff import connect_to_table, diff_tables

url, path, table, key, *columns = sys.argv[1:]
begun, used = time.monotonic(), time.process_time()
source = connect_to_table(url, table, (key,))
target = connect_to_table({"driver": "duckdb", "filepath": path}, table, (key,))
rows = list(diff_tables(source, target, key_columns=(key,), extra_columns=tuple(columns), threaded=True))
print(
    json.dumps(
        {
            "seconds": time.monotonic() - begun,
            "cpuSeconds": time.process_time() - used,
            "differences": len(rows),
            "rssBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    )
)
