"""The tables of a ledger's file, as the SQL that turns each schema version into the next."""

from __future__ import annotations

APPLICATION_ID = 0x61697631
"""Marks the file as a ledger (“aiv1”), in the header field that SQLite has for this."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        batch TEXT NOT NULL,        -- '' for none
        key TEXT,
        model TEXT NOT NULL,
        input BLOB NOT NULL,        -- JSON
        stated_credits INTEGER,
        fingerprint TEXT NOT NULL,
        credits INTEGER,
        callback_url TEXT,
        status TEXT NOT NULL,
        waiting INTEGER NOT NULL,
        path TEXT,
        size INTEGER,
        planned_at REAL NOT NULL
    );
    CREATE UNIQUE INDEX jobs_by_key ON jobs (batch, key) WHERE key IS NOT NULL;
    CREATE INDEX jobs_by_status ON jobs (status, seq);
    CREATE INDEX jobs_by_batch ON jobs (batch, status, seq) WHERE batch <> '';
    CREATE TABLE attempts (
        job INTEGER NOT NULL,
        number INTEGER NOT NULL,
        status TEXT NOT NULL,
        owner TEXT NOT NULL,
        lease_until REAL NOT NULL,
        sent_at REAL NOT NULL,
        task_id TEXT,
        reason BLOB,                -- JSON: [message, HTTP status, code]
        created_at REAL,
        completed_at REAL,
        PRIMARY KEY (job, number)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX attempts_by_task ON attempts (task_id) WHERE task_id IS NOT NULL;
    CREATE INDEX attempts_on_their_way ON attempts (owner) WHERE status = 'submitting';
    CREATE TABLE totals (
        batch TEXT PRIMARY KEY,
        charged INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        unknown INTEGER NOT NULL,
        refunded INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE readings (
        at REAL NOT NULL,
        balance INTEGER NOT NULL,
        purchased INTEGER NOT NULL,
        consumed INTEGER NOT NULL,
        charged INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        unknown INTEGER NOT NULL,
        refunded INTEGER NOT NULL
    );
    """,
    # Amounts become whole millionths of a credit, and attempts keep the amount that was reserved
    # for them. Tables and columns get new names, so that a process that has the file open with the
    # first schema fails on each statement, instead of counting credits as millionths.
    """
    CREATE TABLE jobs_2 (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        batch TEXT NOT NULL,        -- '' for none
        key TEXT,
        model TEXT NOT NULL,
        input BLOB NOT NULL,        -- JSON
        fingerprint TEXT NOT NULL,
        credits_millionths INTEGER, -- the price; NULL where it is not known
        callback_url TEXT,
        status TEXT NOT NULL,
        waiting INTEGER NOT NULL,
        resumable INTEGER NOT NULL,
        path TEXT,
        size INTEGER,
        planned_at REAL NOT NULL
    );
    INSERT INTO jobs_2
        SELECT seq, id, batch, key, model, input, fingerprint, credits * 1000000, callback_url,
            status, waiting, key IS NULL AND batch = '', path, size, planned_at
        FROM jobs;
    DROP TABLE jobs;
    ALTER TABLE jobs_2 RENAME TO jobs;
    CREATE UNIQUE INDEX jobs_by_key ON jobs (batch, key) WHERE key IS NOT NULL;
    CREATE INDEX jobs_by_status ON jobs (status, seq);
    CREATE INDEX jobs_by_batch ON jobs (batch, status, seq) WHERE batch <> '';
    ALTER TABLE attempts ADD COLUMN credits_millionths INTEGER;
    UPDATE attempts SET credits_millionths =
        (SELECT credits_millionths FROM jobs WHERE jobs.seq = attempts.job);
    CREATE TABLE credit_totals (    -- millionths of a credit
        batch TEXT PRIMARY KEY,
        charged INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        unknown INTEGER NOT NULL,
        refunded INTEGER NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO credit_totals
        SELECT batch, charged * 1000000, reserved * 1000000, unknown * 1000000, refunded * 1000000
        FROM totals;
    DROP TABLE totals;
    CREATE TABLE account_readings ( -- millionths of a credit
        at REAL NOT NULL,
        balance INTEGER NOT NULL,
        purchased INTEGER NOT NULL,
        consumed INTEGER NOT NULL,
        charged INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        unknown INTEGER NOT NULL,
        refunded INTEGER NOT NULL
    );
    INSERT INTO account_readings
        SELECT at, balance * 1000000, purchased * 1000000, consumed * 1000000, charged * 1000000,
            reserved * 1000000, unknown * 1000000, refunded * 1000000
        FROM readings ORDER BY rowid;
    DROP TABLE readings;
    CREATE TABLE ceilings (
        batch TEXT PRIMARY KEY,
        credits_millionths INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    # Attempts without a known price are counted. A column of attempts gets a new name, so that a
    # process that has the file open with the second schema fails on each statement about attempts,
    # instead of making attempts that are not counted.
    """
    ALTER TABLE attempts RENAME COLUMN credits_millionths TO reserved_millionths;
    CREATE INDEX attempts_unpriced ON attempts (job) WHERE reserved_millionths IS NULL;
    ALTER TABLE credit_totals ADD COLUMN unpriced INTEGER NOT NULL DEFAULT 0;  -- attempts
    INSERT INTO credit_totals (batch, charged, reserved, unknown, refunded, unpriced)
        SELECT jobs.batch, 0, 0, 0, 0, count(*)
        FROM attempts JOIN jobs ON jobs.seq = attempts.job
        WHERE attempts.reserved_millionths IS NULL AND attempts.status IN
            ('submitting', 'running', 'completed', 'faulted', 'unknown')
        GROUP BY jobs.batch
        ON CONFLICT (batch) DO UPDATE SET unpriced = excluded.unpriced;
    -- How many were counted at an earlier reading is not known: at most these. An audit that finds
    -- another number at a later reading concludes nothing.
    ALTER TABLE account_readings ADD COLUMN unpriced INTEGER NOT NULL DEFAULT 0;
    UPDATE account_readings SET unpriced = (
        SELECT count(*) FROM attempts
        WHERE reserved_millionths IS NULL AND sent_at <= account_readings.at AND status IN
            ('submitting', 'running', 'completed', 'faulted', 'unknown', 'failed'));
    """,
)
"""The SQL that turns each schema version into the next; their number is the newest version."""
