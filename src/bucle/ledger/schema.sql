CREATE TABLE IF NOT EXISTS nodes (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, attrs TEXT NOT NULL, blobs TEXT NOT NULL, created_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS nodes_kind ON nodes (kind, created_at);
CREATE TABLE IF NOT EXISTS edges (
  child TEXT NOT NULL, role TEXT NOT NULL, parent TEXT NOT NULL, PRIMARY KEY (child, role, parent)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS edges_parent ON edges (parent, role);
CREATE TABLE IF NOT EXISTS aliases (
  seq INTEGER PRIMARY KEY, name TEXT NOT NULL, node TEXT NOT NULL, at TEXT NOT NULL, by TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS aliases_name ON aliases (name, seq);
CREATE TABLE IF NOT EXISTS steps (
  key TEXT PRIMARY KEY, name TEXT NOT NULL, stage TEXT NOT NULL, outputs TEXT NOT NULL, figures TEXT NOT NULL,
  seconds REAL NOT NULL, finished_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
  seq INTEGER PRIMARY KEY, started_at TEXT NOT NULL, finished_at TEXT, steps TEXT NOT NULL DEFAULT '[]'
);
CREATE TABLE IF NOT EXISTS traces (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at_epoch REAL NOT NULL, route TEXT NOT NULL, release TEXT NOT NULL,
  user TEXT NOT NULL, key TEXT NOT NULL, team TEXT NOT NULL, role TEXT NOT NULL, cached TEXT NOT NULL,
  status INTEGER NOT NULL, ms REAL NOT NULL, ms_first REAL NOT NULL, tokens_in INTEGER NOT NULL,
  tokens_out INTEGER NOT NULL, nano_usd INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS traces_at ON traces (at_epoch);
CREATE INDEX IF NOT EXISTS traces_route ON traces (route, at_epoch);
CREATE INDEX IF NOT EXISTS traces_user ON traces (user, at_epoch) WHERE user != '';
CREATE TABLE IF NOT EXISTS trace_texts (
  seq INTEGER PRIMARY KEY, input TEXT NOT NULL, output TEXT NOT NULL, body TEXT NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS trace_search USING fts5 (
  input, output, content='trace_texts', content_rowid='seq', columnsize=0, tokenize='unicode61 remove_diacritics 2'
);
CREATE TABLE IF NOT EXISTS spend (
  month TEXT NOT NULL, key TEXT NOT NULL, team TEXT NOT NULL, requests INTEGER NOT NULL, tokens_in INTEGER NOT NULL,
  tokens_out INTEGER NOT NULL, nano_usd INTEGER NOT NULL, PRIMARY KEY (month, key, team)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feedback (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, trace TEXT NOT NULL, at TEXT NOT NULL, by TEXT NOT NULL,
  rating INTEGER, correction TEXT, reason TEXT NOT NULL, source TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS feedback_trace ON feedback (trace);
CREATE TABLE IF NOT EXISTS annotations (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, task TEXT NOT NULL, row TEXT NOT NULL, by TEXT NOT NULL,
  label TEXT, at TEXT NOT NULL, kind TEXT NOT NULL, note TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS annotations_row ON annotations (task, row);
CREATE TABLE IF NOT EXISTS annotation_rows (
  seq INTEGER PRIMARY KEY, task TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, UNIQUE (task, id)
);
CREATE TABLE IF NOT EXISTS annotation_turns (
  task TEXT NOT NULL, row TEXT NOT NULL, by TEXT NOT NULL, until REAL NOT NULL, skipped INTEGER NOT NULL,
  PRIMARY KEY (task, row, by)
) WITHOUT ROWID;
