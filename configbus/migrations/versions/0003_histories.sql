-- What keeps a history true: its epoch rises with the server's timeline, it goes on by mistake on no other
-- server, and what was changed behind the triggers is found and released.

-- Rises when a standby is promoted; named in the last three digits of an epoch.
CREATE FUNCTION {schema}.timeline() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT least(('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint, 999)
$$;

CREATE FUNCTION {schema}.server() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT system_identifier::text FROM pg_control_system()
$$;

-- Rings for the relay, unless the queue of notifications is filling up: a full one fails every commit that rings,
-- and the relay looks by itself ten times a second.
CREATE FUNCTION {schema}.ring(of text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('{channel}', of);
    END IF;
END $$;

-- The environment, locked for a release. After a promotion the first release begins a new epoch; the seconds in it
-- stay, so that an old primary with a later clock does not overtake the new one.
CREATE FUNCTION {schema}.lock_environment(of text) RETURNS {schema}.environment LANGUAGE plpgsql AS $$
DECLARE
    place {schema}.environment;
BEGIN
    SELECT * INTO STRICT place FROM {schema}.environment WHERE name = of FOR NO KEY UPDATE;
    IF place.system <> {schema}.server() THEN
        RAISE EXCEPTION 'environment % comes from another Postgres server, restored or copied: if this one is to be'
            ' the truth from now on, say so with: configbus epoch raise', of
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF {schema}.timeline() > place.epoch % 1000 THEN
        UPDATE {schema}.environment SET epoch = epoch - epoch % 1000 + {schema}.timeline() WHERE name = of
        RETURNING * INTO place;
    END IF;
    RETURN place;
END $$;

-- Begins a new history above everything named; returns the epoch. Nothing is done where it is another one than when
-- `expected` was read, or another release was made since `newest`.
CREATE FUNCTION {schema}.raise_epoch(of text, expected bigint, newest bigint, above bigint, why text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    place {schema}.environment;
    raised bigint;
BEGIN
    SELECT * INTO STRICT place FROM {schema}.environment WHERE name = of FOR NO KEY UPDATE;
    IF place.epoch <> expected OR place.revision <> newest THEN
        RETURN place.epoch;
    END IF;
    raised := greatest(floor(extract(epoch FROM clock_timestamp()))::bigint, place.epoch / 1000 + 1, above / 1000 + 1)
              * 1000 + {schema}.timeline();
    IF raised > 999999999999999 THEN
        RAISE EXCEPTION 'no epoch lies above %: whatever named it is damaged', above
            USING ERRCODE = 'numeric_value_out_of_range';
    END IF;
    UPDATE {schema}.environment SET epoch = raised, system = {schema}.server() WHERE name = of;
    INSERT INTO {schema}.config_audit_log (config_table, config_id, environment, key, action, old_values, new_values,
                                           changed_fields, reason, performed_by, source_ip, user_agent)
    VALUES ('environment', '00000000-0000-0000-0000-000000000000', of, '', 'epoch',
            jsonb_build_object('epoch', place.epoch, 'system', place.system),
            jsonb_build_object('epoch', raised, 'system', {schema}.server()), ARRAY['epoch'], why,
            {schema}.actor(), host(inet_client_addr()), current_setting('application_name'));
    PERFORM {schema}.ring(of);
    RETURN raised;
END $$;

-- The newest entry of each block. Names are found one by one through the index: histories are long, names few.
CREATE FUNCTION {schema}.newest(of text) RETURNS SETOF {schema}.release_block LANGUAGE sql STABLE AS $$
    WITH RECURSIVE known AS (
        (SELECT name FROM {schema}.release_block WHERE environment = of ORDER BY name LIMIT 1)
        UNION ALL
        SELECT (SELECT name FROM {schema}.release_block WHERE environment = of AND name > known.name ORDER BY name LIMIT 1)
        FROM known WHERE known.name IS NOT NULL)
    SELECT entry.* FROM known CROSS JOIN LATERAL (
        SELECT * FROM {schema}.release_block WHERE environment = of AND name = known.name ORDER BY revision DESC LIMIT 1
    ) AS entry
$$;

-- Makes what is live of a block now an entry of this transaction's release; whether it differed from the newest.
CREATE FUNCTION {schema}.capture_block(config_table text, domain text, keyed boolean, place {schema}.environment,
                                       block_key text, row_id uuid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    block text := domain || CASE block_key WHEN '' THEN '' ELSE '/' || block_key END;
    own {schema}.release;
    last {schema}.release_block;
    live jsonb;
    wrapping jsonb;
BEGIN
    EXECUTE format(
        'SELECT {schema}.content(_row), jsonb_build_object(''@version'', version, ''@id'', id, ''@name'', name,'
        ' ''@activated_at'', {schema}.instant(activated_at), ''@activated_by'', activated_by)'
        ' FROM {schema}.%I AS _row WHERE environment = $1 AND key = $2 AND status = ''active''', config_table)
    INTO live, wrapping USING place.name, block_key;
    SELECT * INTO last FROM {schema}.release_block
    WHERE environment = place.name AND name = block ORDER BY revision DESC LIMIT 1;
    IF live IS NULL THEN
        IF NOT keyed THEN
            RAISE EXCEPTION '% must keep an active row in %: activate another row in the same transaction',
                block, place.name USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        IF last.content IS NULL THEN
            RETURN false;
        END IF;
        wrapping := jsonb_build_object('@retired', true, '@activated_at', {schema}.instant(clock_timestamp()),
                                       '@activated_by', {schema}.actor());
        INSERT INTO {schema}.config_audit_log (config_table, config_id, environment, key, action, old_values,
                                               changed_fields, reason, performed_by, source_ip, user_agent)
        VALUES (config_table, row_id, place.name, block_key, 'retire', last.content,
                {schema}.changed_fields(last.content, NULL), nullif(current_setting('configbus.reason', true), ''),
                {schema}.actor(), host(inet_client_addr()), current_setting('application_name'));
    ELSIF last.content = live AND last.envelope - '@with' - '@revision' = wrapping THEN
        RETURN false;
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
            PERFORM {schema}.ring(place.name);
        END IF;
    END IF;
    INSERT INTO {schema}.release_block (environment, revision, name, content, envelope)
    VALUES (own.environment, own.revision, block, live, wrapping || jsonb_build_object('@revision', own.revision))
    ON CONFLICT (environment, revision, name)
        DO UPDATE SET content = excluded.content, envelope = excluded.envelope, digest = NULL;
    -- After SET CONSTRAINTS ... IMMEDIATE the release is sealed already: have it sealed anew.
    UPDATE {schema}.release SET state = NULL
    WHERE environment = own.environment AND revision = own.revision AND state IS NOT NULL;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION {schema}.capture() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    subject record := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    PERFORM {schema}.capture_block(TG_TABLE_NAME, TG_ARGV[0], TG_ARGV[1]::boolean,
                                   {schema}.lock_environment(subject.environment), subject.key, subject.id);
    RETURN NULL;
END $$;

-- Blocks whose active row is not what was released last: changed with the triggers switched off.
CREATE FUNCTION {schema}.drift(of text) RETURNS TABLE (
    config_table text, domain text, keyed boolean, key text, row_id uuid, released jsonb, live jsonb
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    entries {schema}.release_block[] := ARRAY(SELECT entry FROM {schema}.newest(of) AS entry);
    subject record;
BEGIN
    FOR subject IN
        SELECT DISTINCT c.relname, string_to_array(encode(t.tgargs, 'escape'), '\000') AS arguments
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE t.tgfoid = '{schema}.capture'::regproc AND t.tgname = 'capture_insert'
            AND c.relnamespace = '{schema}'::regnamespace
            AND c.relname = split_part(encode(t.tgargs, 'escape'), '\000', 1) || '_config'
        ORDER BY c.relname
    LOOP
        RETURN QUERY EXECUTE format(
            'SELECT %L::text, %L::text, %L::boolean, coalesce(a.key, b.key), coalesce(a.id, (b.envelope ->> ''@id'')::uuid,'
            '       ''00000000-0000-0000-0000-000000000000''), b.content, a.live'
            ' FROM (SELECT key, id, {schema}.content(_row) AS live, jsonb_build_object(''@version'', version, ''@id'', id,'
            '              ''@name'', name, ''@activated_at'', {schema}.instant(activated_at),'
            '              ''@activated_by'', activated_by) AS envelope'
            '       FROM {schema}.%I AS _row WHERE environment = $1 AND status = ''active'') AS a'
            ' FULL JOIN (SELECT split_part(name, ''/'', 2) AS key, content, envelope - ''@with'' - ''@revision'' AS envelope'
            '            FROM unnest($3) WHERE split_part(name, ''/'', 1) = $2) AS b USING (key)'
            ' WHERE a.live IS DISTINCT FROM b.content OR a.live IS NOT NULL AND a.envelope IS DISTINCT FROM b.envelope'
            ' ORDER BY 4',
            subject.relname, subject.arguments[1], subject.arguments[2], subject.relname)
        USING of, subject.arguments[1], entries;
    END LOOP;
END $$;

-- Releases what was changed behind the triggers, at most 500 blocks at once; returns their names. A singleton without
-- an active row cannot be released and is left to be mended.
CREATE FUNCTION {schema}.capture_drift(of text) RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    subject record;
BEGIN
    PERFORM set_config('configbus.reason', 'outside triggers', true), set_config('configbus.source', 'drift', true),
            set_config('configbus.actor', 'database:' || session_user, true);
    FOR subject IN SELECT * FROM {schema}.drift(of) AS found WHERE found.keyed OR found.live IS NOT NULL LIMIT 500 LOOP
        IF {schema}.capture_block(subject.config_table, subject.domain, subject.keyed, {schema}.lock_environment(of),
                                  subject.key, subject.row_id) THEN
            INSERT INTO {schema}.config_audit_log (config_table, config_id, environment, key, action, old_values,
                                                   new_values, changed_fields, reason, performed_by, source_ip, user_agent)
            VALUES (subject.config_table, subject.row_id, of, subject.key, 'drift', subject.released, subject.live,
                    {schema}.changed_fields(subject.released, subject.live), 'outside triggers',
                    {schema}.actor(), host(inet_client_addr()), current_setting('application_name'));
            RETURN NEXT subject.domain || CASE subject.key WHEN '' THEN '' ELSE '/' || subject.key END;
        END IF;
    END LOOP;
END $$;

-- Who could put the capture on a table of his own would have its rows believed.
REVOKE EXECUTE ON FUNCTION {schema}.capture(), {schema}.capture_drift(text) FROM PUBLIC;
