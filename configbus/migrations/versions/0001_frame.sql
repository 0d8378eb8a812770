-- The frame around the domain tables: environments, releases, audit, and the trigger functions
-- that every domain table shares. {schema} is replaced by the quoted name of the schema.

CREATE TYPE {schema}.config_status AS ENUM ('default', 'draft', 'active', 'archived');

CREATE TABLE {schema}.environment (
    name text PRIMARY KEY CONSTRAINT environment_name CHECK (name ~ '^[a-z][a-z0-9-]{0,62}$'),
    bus text NOT NULL DEFAULT substr(replace(gen_random_uuid()::text, '-', ''), 1, 12),
    system text NOT NULL DEFAULT (pg_control_system()).system_identifier::text,
    epoch bigint NOT NULL,
    revision bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON COLUMN {schema}.environment.bus IS 'short id of this environment in this installation; workers ignore any other';
COMMENT ON COLUMN {schema}.environment.epoch IS 'names one unbroken history: seconds of its beginning x 1000 + timeline';
COMMENT ON COLUMN {schema}.environment.revision IS 'number of the newest release';

CREATE TABLE {schema}.release (
    environment text NOT NULL REFERENCES {schema}.environment (name),
    revision bigint NOT NULL,
    epoch bigint NOT NULL,
    state text,
    prev text NOT NULL,
    released_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    reason text,
    source text NOT NULL,
    xid xid8 NOT NULL,
    began timestamptz NOT NULL,
    PRIMARY KEY (environment, revision)
);
COMMENT ON TABLE {schema}.release IS 'one row per committed transaction that changed active blocks; history and outbox';
COMMENT ON COLUMN {schema}.release.state IS 'XOR of the digests of all entries that hold after it; equal state means equal content';
COMMENT ON COLUMN {schema}.release.prev IS 'state of the release before it';

CREATE TABLE {schema}.release_block (
    environment text NOT NULL,
    revision bigint NOT NULL,
    name text NOT NULL,
    content jsonb,
    envelope jsonb NOT NULL,
    digest text,
    PRIMARY KEY (environment, revision, name),
    FOREIGN KEY (environment, revision) REFERENCES {schema}.release (environment, revision)
);
CREATE INDEX release_block_newest ON {schema}.release_block (environment, name, revision DESC);
COMMENT ON COLUMN {schema}.release_block.content IS 'canonical content, in full; null when the block was retired';
COMMENT ON COLUMN {schema}.release_block.digest IS 'first 128 bits of SHA-256 over name, envelope and content';

CREATE TABLE {schema}.config_audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    config_table varchar(50) NOT NULL,
    config_id uuid NOT NULL,
    environment text NOT NULL,
    key text NOT NULL,
    action varchar(20) NOT NULL,
    old_values jsonb,
    new_values jsonb,
    changed_fields text[],
    reason text,
    performed_by text NOT NULL,
    performed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    source_ip varchar(45),
    user_agent text
);
CREATE INDEX config_audit_log_table ON {schema}.config_audit_log (config_table, performed_at DESC);
CREATE INDEX config_audit_log_row ON {schema}.config_audit_log (config_id, performed_at DESC);

CREATE FUNCTION {schema}.actor() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('configbus.actor', true), ''), 'database:' || session_user)
$$;

-- The fields of a row without its lifecycle columns, to see whether content changed.
CREATE FUNCTION {schema}.bare(whole jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT whole - ARRAY['id', 'environment', 'key', 'name', 'status', 'version', 'description', 'created_at',
                         'created_by', 'updated_at', 'updated_by', 'activated_at', 'activated_by']
$$;

CREATE FUNCTION {schema}.changed_fields(before jsonb, after jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(key ORDER BY key) FROM jsonb_object_keys(coalesce(before, '{}') || coalesce(after, '{}')) AS key
    WHERE before -> key IS DISTINCT FROM after -> key
$$;

-- BEFORE INSERT OR UPDATE: the lifecycle columns belong to the database, not to the writer.
CREATE FUNCTION {schema}.lifecycle() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    edited boolean := true;
BEGIN
    NEW.updated_at := clock_timestamp();
    NEW.updated_by := {schema}.actor();
    IF TG_OP = 'INSERT' THEN
        NEW.created_at := NEW.updated_at;
        NEW.created_by := NEW.updated_by;
        NEW.name := coalesce(nullif(NEW.name, ''), 'draft ' || left(NEW.id::text, 8));
        NEW.activated_at := NULL;
        NEW.activated_by := NULL;
    ELSE
        IF (NEW.id, NEW.environment, NEW.key) IS DISTINCT FROM (OLD.id, OLD.environment, OLD.key) THEN
            RAISE EXCEPTION '%: id, environment and key of a row do not change; insert a new row', TG_TABLE_NAME
                USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF OLD.status = 'archived' THEN
            RAISE EXCEPTION '%: row % is archived; history is not edited, insert a draft with its values instead',
                TG_TABLE_NAME, left(OLD.id::text, 8) USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF NEW.status <> OLD.status
            AND (OLD.status, NEW.status) NOT IN (('draft', 'active'), ('draft', 'archived'), ('active', 'archived')) THEN
            RAISE EXCEPTION '%: a row cannot go from % to %; draft to active to archived is the way',
                TG_TABLE_NAME, OLD.status, NEW.status USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        edited := {schema}.bare(to_jsonb(NEW)) IS DISTINCT FROM {schema}.bare(to_jsonb(OLD));
        NEW.version := OLD.version + edited::int;
        NEW.created_at := OLD.created_at;
        NEW.created_by := OLD.created_by;
        NEW.activated_at := OLD.activated_at;
        NEW.activated_by := OLD.activated_by;
        edited := edited OR OLD.status <> 'active';
    END IF;
    IF NEW.status = 'active' AND edited THEN
        NEW.activated_at := NEW.updated_at;
        NEW.activated_by := NEW.updated_by;
    END IF;
    RETURN NEW;
END $$;

-- AFTER INSERT OR UPDATE OR DELETE: who did what, when and why. For an activation the old values are
-- those that were live before it, so that one row shows the change.
CREATE FUNCTION {schema}.audit() RETURNS trigger LANGUAGE plpgsql AS $$
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
    END IF;
    INSERT INTO {schema}.config_audit_log (config_table, config_id, environment, key, action, old_values, new_values,
                                           changed_fields, reason, performed_by, source_ip, user_agent)
    VALUES (TG_TABLE_NAME, subject.id, subject.environment, subject.key, action, before, after,
            {schema}.changed_fields(before, after), nullif(current_setting('configbus.reason', true), ''),
            {schema}.actor(), host(inet_client_addr()), current_setting('application_name'));
    RETURN NULL;
END $$;

-- Deferred to commit, for every active row that came, went or changed: what is live now becomes an entry of
-- this transaction's release. The row lock on the environment makes revision order commit order, without gaps.
CREATE FUNCTION {schema}.capture() RETURNS trigger LANGUAGE plpgsql AS $$
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
        'SELECT {schema}.content(t), jsonb_build_object(''@version'', t.version, ''@id'', t.id, ''@name'', t.name,'
        ' ''@activated_at'', {schema}.instant(t.activated_at), ''@activated_by'', t.activated_by)'
        ' FROM {schema}.%I AS t WHERE environment = $1 AND key = $2 AND status = ''active''', TG_TABLE_NAME)
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

-- Deferred behind all captures of the transaction: partners, digests and the release's state.
CREATE FUNCTION {schema}.seal() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    names text[] := ARRAY(SELECT name FROM {schema}.release_block
                          WHERE environment = NEW.environment AND revision = NEW.revision ORDER BY name COLLATE "C");
BEGIN
    UPDATE {schema}.release_block
    SET envelope = envelope || jsonb_build_object(
        '@with', CASE WHEN cardinality(names) > 33 THEN to_jsonb('*'::text) ELSE to_jsonb(array_remove(names, name)) END)
    WHERE environment = NEW.environment AND revision = NEW.revision;
    UPDATE {schema}.release_block
    SET digest = {schema}.digest(name, envelope || coalesce(content, '{}'))
    WHERE environment = NEW.environment AND revision = NEW.revision;
    UPDATE {schema}.release
    SET state = (
        SELECT encode(substring(bit_send(('x' || NEW.prev)::bit(128)
                      # coalesce(bit_xor(('x' || now.digest)::bit(128)), 0::bit(128))
                      # coalesce(bit_xor(('x' || coalesce(before.digest, repeat('0', 32)))::bit(128)), 0::bit(128))) FROM 5), 'hex')
        FROM {schema}.release_block AS now
        LEFT JOIN LATERAL (
            SELECT digest FROM {schema}.release_block AS earlier
            WHERE earlier.environment = now.environment AND earlier.name = now.name AND earlier.revision < now.revision
            ORDER BY earlier.revision DESC LIMIT 1) AS before ON true
        WHERE now.environment = NEW.environment AND now.revision = NEW.revision)
    WHERE environment = NEW.environment AND revision = NEW.revision;
    RETURN NULL;
END $$;

CREATE FUNCTION {schema}.instant(at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- Readers compute the same from a Redis hash, whose fields they put in the order of jsonb: shorter names first.
CREATE FUNCTION {schema}.digest(name text, fields jsonb) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT encode(substring(sha256(convert_to(name || E'\n' || fields::text, 'UTF8')) FROM 1 FOR 16), 'hex')
$$;

CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

-- Entries are written by capture and seal, in the transaction of their release, and never again.
CREATE FUNCTION {schema}.refuse_later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM {schema}.release WHERE environment = OLD.environment AND revision = OLD.revision
                   AND xid = pg_current_xact_id() AND began = transaction_timestamp()) THEN
        RAISE EXCEPTION '% of % is refused: releases are history; change the configuration instead', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE CONSTRAINT TRIGGER seal AFTER INSERT OR UPDATE OF state ON {schema}.release
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.state IS NULL) EXECUTE FUNCTION {schema}.seal();
CREATE TRIGGER history BEFORE UPDATE ON {schema}.release
    FOR EACH ROW WHEN (OLD.state IS NOT NULL) EXECUTE FUNCTION {schema}.refuse_later();
CREATE TRIGGER history BEFORE UPDATE ON {schema}.release_block
    FOR EACH ROW WHEN (OLD.digest IS NOT NULL) EXECUTE FUNCTION {schema}.refuse_later();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON {schema}.release
    EXECUTE FUNCTION {schema}.refuse('releases are history');
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON {schema}.release_block
    EXECUTE FUNCTION {schema}.refuse('releases are history');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {schema}.config_audit_log
    EXECUTE FUNCTION {schema}.refuse('the audit log only grows');
