-- What an author's day needs of the frame: idempotency keys, retirement in the audit log, an audit row that
-- tells what a migration changed, indexes for history and audit, and which models the tables were made for.

CREATE TABLE {schema}.idempotency (
    environment text NOT NULL,
    key text NOT NULL,
    request text NOT NULL,
    revision bigint,
    epoch bigint,
    released boolean,
    called_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    called_by text NOT NULL,
    PRIMARY KEY (environment, key)
);
COMMENT ON TABLE {schema}.idempotency IS 'one row per call that had an idempotency key, and what came of it';
COMMENT ON COLUMN {schema}.idempotency.request IS 'SHA-256 of the call';
COMMENT ON COLUMN {schema}.idempotency.released IS 'whether the call made that revision; otherwise it changed nothing';
CREATE TABLE {schema}.domain (
    name text PRIMARY KEY,
    model jsonb NOT NULL,
    checks text[] NOT NULL,
    migrated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    migrated_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE {schema}.domain IS 'the models that the tables were last brought to';
COMMENT ON COLUMN {schema}.domain.model IS 'JSON Schema of the model';
COMMENT ON COLUMN {schema}.domain.checks IS 'checks that came from the model; all others are an operator''s own';

CREATE INDEX release_time ON {schema}.release (environment, released_at);
CREATE INDEX config_audit_log_block ON {schema}.config_audit_log (environment, config_table, key, id);

-- An update that changes nothing of a row is not recorded, except where it brings what a migration put into
-- an active row: the old values are then those that were released last.
CREATE OR REPLACE FUNCTION {schema}.audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    content_of text := 'SELECT {schema}.content($1) || jsonb_build_object(''name'', $1.name, ''status'', $1.status,'
                       ' ''description'', $1.description)';
    subject record := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    block text := TG_ARGV[0] || CASE subject.key WHEN '' THEN '' ELSE '/' || subject.key END;
    action text := CASE TG_OP WHEN 'INSERT' THEN 'create' ELSE lower(TG_OP) END;
    before jsonb;
    after jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        EXECUTE content_of INTO before USING OLD;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        EXECUTE content_of INTO after USING NEW;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.status = 'active' AND (TG_OP = 'INSERT' OR OLD.status <> 'active') THEN
        action := 'activate';
        after := after - ARRAY['status', 'name', 'description'];
        SELECT content INTO before FROM {schema}.release_block
        WHERE environment = NEW.environment AND name = block ORDER BY revision DESC LIMIT 1;
    ELSIF TG_OP = 'UPDATE' AND NEW.status = 'archived' THEN
        action := 'archive';
    ELSIF TG_OP = 'UPDATE' AND before = after THEN
        IF NEW.status <> 'active' THEN
            RETURN NULL;
        END IF;
        after := after - ARRAY['status', 'name', 'description'];
        SELECT content INTO before FROM {schema}.release_block
        WHERE environment = NEW.environment AND name = block ORDER BY revision DESC LIMIT 1;
        IF before = after THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO {schema}.config_audit_log (config_table, config_id, environment, key, action, old_values, new_values,
                                           changed_fields, reason, performed_by, source_ip, user_agent)
    VALUES (TG_TABLE_NAME, subject.id, subject.environment, subject.key, action, before, after,
            {schema}.changed_fields(before, after), nullif(current_setting('configbus.reason', true), ''),
            {schema}.actor(), host(inet_client_addr()), current_setting('application_name'));
    RETURN NULL;
END $$;

-- A block that is taken away without a successor is recorded as retired, whoever does it and however. No field
-- can be called _row, so that no column hides the row.
CREATE OR REPLACE FUNCTION {schema}.capture() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    subject record := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    block text := TG_ARGV[0] || CASE subject.key WHEN '' THEN '' ELSE '/' || subject.key END;
    keyed boolean := TG_ARGV[1];
    place {schema}.environment;
    own {schema}.release;
    last {schema}.release_block;
    live jsonb;
    wrapping jsonb;
BEGIN
    SELECT * INTO STRICT place FROM {schema}.environment WHERE name = subject.environment FOR NO KEY UPDATE;
    EXECUTE format(
        'SELECT {schema}.content(_row), jsonb_build_object(''@version'', version, ''@id'', id, ''@name'', name,'
        ' ''@activated_at'', {schema}.instant(activated_at), ''@activated_by'', activated_by)'
        ' FROM {schema}.%I AS _row WHERE environment = $1 AND key = $2 AND status = ''active''', TG_TABLE_NAME)
    INTO live, wrapping USING subject.environment, subject.key;
    SELECT * INTO last FROM {schema}.release_block
    WHERE environment = place.name AND name = block ORDER BY revision DESC LIMIT 1;
    IF live IS NULL THEN
        IF NOT keyed THEN
            RAISE EXCEPTION '% must keep an active row in %: activate another row in the same transaction',
                block, place.name USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF last.content IS NULL THEN
            RETURN NULL;
        END IF;
        wrapping := jsonb_build_object('@retired', true, '@activated_at', {schema}.instant(clock_timestamp()),
                                       '@activated_by', {schema}.actor());
        INSERT INTO {schema}.config_audit_log (config_table, config_id, environment, key, action, old_values,
                                               changed_fields, reason, performed_by, source_ip, user_agent)
        VALUES (TG_TABLE_NAME, subject.id, place.name, subject.key, 'retire', last.content,
                {schema}.changed_fields(last.content, NULL), nullif(current_setting('configbus.reason', true), ''),
                {schema}.actor(), host(inet_client_addr()), current_setting('application_name'));
    ELSIF last.content = live AND last.envelope - '@with' - '@revision' = wrapping THEN
        RETURN NULL;
    END IF;

    SELECT * INTO own FROM {schema}.release WHERE environment = place.name AND revision = place.revision
        AND xid = pg_current_xact_id() AND began = transaction_timestamp();
    IF own IS NULL THEN
        INSERT INTO {schema}.release (environment, revision, epoch, prev, actor, reason, source, xid, began)
        SELECT place.name, place.revision + 1, place.epoch,
               coalesce((SELECT state FROM {schema}.release WHERE environment = place.name AND revision = place.revision),
                        repeat('0', 32)),
               {schema}.actor(), nullif(current_setting('configbus.reason', true), ''),
               coalesce(nullif(current_setting('configbus.source', true), ''), 'sql'),
               pg_current_xact_id(), transaction_timestamp()
        RETURNING * INTO own;
        UPDATE {schema}.environment SET revision = own.revision WHERE name = place.name;
        IF current_setting('configbus.publishes', true) IS DISTINCT FROM 'on' THEN
            PERFORM pg_notify('{channel}', place.name);
        END IF;
    END IF;
    INSERT INTO {schema}.release_block (environment, revision, name, content, envelope)
    VALUES (own.environment, own.revision, block, live, wrapping || jsonb_build_object('@revision', own.revision))
    ON CONFLICT (environment, revision, name)
        DO UPDATE SET content = excluded.content, envelope = excluded.envelope, digest = NULL;
    -- After SET CONSTRAINTS ... IMMEDIATE the release is sealed already: have it sealed anew.
    UPDATE {schema}.release SET state = NULL
    WHERE environment = own.environment AND revision = own.revision AND state IS NOT NULL;
    RETURN NULL;
END $$;
