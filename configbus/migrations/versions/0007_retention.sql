-- Retention: history before a cut is taken away by the schema's owner. What held at the cut stays, so that whatever
-- came after it can be shown, rolled back to and verified.

ALTER TABLE {schema}.environment ADD COLUMN pruned bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN {schema}.environment.pruned IS 'the oldest revision whose contents are known in full; 0: all are';

-- Lines from before there were hashes get theirs now: from here on a line without one was put there.
INSERT INTO {schema}.audit_line (id, environment, digest)
SELECT l.id, l.environment, {schema}.line_digest(l) FROM {schema}.config_audit_log AS l
WHERE NOT EXISTS (SELECT FROM {schema}.audit_line AS h WHERE h.id = l.id);

-- Functions that run with the rights of whoever writes look nowhere but in Postgres' own schema.
ALTER FUNCTION {schema}.lifecycle() SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION {schema}.refuse() SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION {schema}.refuse_later() SET search_path = pg_catalog, pg_temp;

-- A change of a float is one, whatever digits the writer's session shows.
ALTER FUNCTION {schema}.lifecycle() SET extra_float_digits = 1;

-- Whether this transaction prunes. Whoever has no rights of the owner can say so in vain.
CREATE FUNCTION {schema}.pruning() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(current_setting('configbus.pruning', true), '') = 'on'
        AND pg_has_role(session_user, relowner, 'MEMBER') FROM pg_class WHERE oid = '{schema}.release'::regclass
$$;

DROP TRIGGER kept ON {schema}.release;
DROP TRIGGER kept ON {schema}.release_block;
DROP TRIGGER kept ON {schema}.audit_line;
DROP TRIGGER append_only ON {schema}.config_audit_log;
CREATE TRIGGER kept BEFORE DELETE ON {schema}.release FOR EACH STATEMENT WHEN (NOT {schema}.pruning())
    EXECUTE FUNCTION {schema}.refuse('releases are history; the owner may prune them');
CREATE TRIGGER kept BEFORE DELETE ON {schema}.release_block FOR EACH STATEMENT WHEN (NOT {schema}.pruning())
    EXECUTE FUNCTION {schema}.refuse('releases are history; the owner may prune them');
CREATE TRIGGER kept BEFORE DELETE ON {schema}.audit_line FOR EACH STATEMENT WHEN (NOT {schema}.pruning())
    EXECUTE FUNCTION {schema}.refuse('the audit log only grows; the owner may prune it');
CREATE TRIGGER kept BEFORE DELETE ON {schema}.config_audit_log FOR EACH STATEMENT WHEN (NOT {schema}.pruning())
    EXECUTE FUNCTION {schema}.refuse('the audit log only grows; the owner may prune it');
CREATE TRIGGER never BEFORE TRUNCATE ON {schema}.release
    EXECUTE FUNCTION {schema}.refuse('releases are history');
CREATE TRIGGER never BEFORE TRUNCATE ON {schema}.release_block
    EXECUTE FUNCTION {schema}.refuse('releases are history');
CREATE TRIGGER never BEFORE TRUNCATE ON {schema}.audit_line
    EXECUTE FUNCTION {schema}.refuse('the audit log only grows');
CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON {schema}.config_audit_log
    EXECUTE FUNCTION {schema}.refuse('the audit log only grows');

-- Rows that are pruned leave no line each: the line of the pruning tells how many.
CREATE OR REPLACE FUNCTION {schema}.audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    content_of text := 'SELECT {schema}.content($1) || jsonb_build_object(''name'', $1.name, ''status'', $1.status,'
                       ' ''description'', $1.description)';
    subject record := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    block text := TG_ARGV[0] || CASE subject.key WHEN '' THEN '' ELSE '/' || subject.key END;
    action text := CASE TG_OP WHEN 'INSERT' THEN 'create' ELSE lower(TG_OP) END;
    before jsonb;
    after jsonb;
BEGIN
    IF TG_OP = 'DELETE' AND OLD.status = 'archived' AND {schema}.pruning() THEN
        RETURN NULL;
    END IF;
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

-- SHA-256 over all releases and entries up to a revision: after a pruning what held then, and where that came from.
CREATE FUNCTION {schema}.kept_until(of text, cut bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT encode(sha256(convert_to(coalesce(string_agg(jsonb_build_array(
        r.revision, r.epoch, {schema}.instant(r.released_at), r.actor, r.reason, r.source, b.name,
        {schema}.digest(b.name, b.envelope || coalesce(b.content, '{}')))::text, E'\n'
        ORDER BY r.revision, b.name COLLATE "C"), ''), 'UTF8')), 'hex')
    FROM {schema}.release AS r LEFT JOIN {schema}.release_block AS b USING (environment, revision)
    WHERE r.environment = of AND r.revision <= cut
$$;

-- The state that the newest entries up to a revision add up to.
CREATE FUNCTION {schema}.state_until(of text, cut bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT encode(substring(bit_send(coalesce(bit_xor(
        ('x' || {schema}.digest(held.name, held.envelope || coalesce(held.content, '{}')))::bit(128)), 0::bit(128))) FROM 5), 'hex')
    FROM (SELECT DISTINCT ON (name) name, envelope, content FROM {schema}.release_block
          WHERE environment = of AND revision <= cut ORDER BY name, revision DESC) AS held
$$;

-- Takes away what is older than an instant: releases before the one that held then, but for the newest entry of each
-- block, the lines of the audit log that they cover, the calls with an idempotency key, and rows that were archived by
-- then, but for the highest version of each block that was live. Adds a line to the audit log that tells what is left.
-- History that was tampered with is refused, unless it is to be pruned anyway.
CREATE FUNCTION {schema}.prune(of text, long_ago timestamptz, anyway boolean DEFAULT false) RETURNS TABLE (
    revision bigint, releases bigint, entries bigint, lines bigint, archived bigint, calls bigint
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    place {schema}.environment;
    cut bigint;
    domain_table name;
    more bigint;
    fault text;
BEGIN
    IF long_ago IS NULL OR long_ago > clock_timestamp() THEN
        RAISE EXCEPTION 'what is to be pruned ends at %, which is not in the past', long_ago USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('configbus prune'), hashtext('{schema}' || of));
    PERFORM set_config('configbus.pruning', 'on', true);
    SELECT * INTO place FROM {schema}.environment WHERE name = of;
    IF place IS NULL THEN
        RAISE EXCEPTION 'there is no environment %', of USING ERRCODE = 'no_data_found';
    END IF;
    SELECT coalesce(min(r.revision) - 1, place.revision) INTO cut FROM {schema}.release AS r
    WHERE r.environment = of AND r.released_at > long_ago AND r.revision > place.pruned;

    IF NOT anyway THEN
        SELECT format('%s %s: %s', what, number, why) INTO fault FROM {schema}.broken_chain(of) LIMIT 1;
        IF fault IS NOT NULL THEN
            RAISE EXCEPTION 'history of % is not what was written, and pruning would hide that: %', of, fault
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
    END IF;

    DELETE FROM {schema}.release_block AS b WHERE b.environment = of AND b.revision < cut AND EXISTS (
        SELECT FROM {schema}.release_block AS later WHERE later.environment = of AND later.name = b.name
            AND later.revision > b.revision AND later.revision <= cut);
    GET DIAGNOSTICS entries = ROW_COUNT;
    DELETE FROM {schema}.release AS r WHERE r.environment = of AND r.revision < cut AND NOT EXISTS (
        SELECT FROM {schema}.release_block AS b WHERE b.environment = of AND b.revision = r.revision);
    GET DIAGNOSTICS releases = ROW_COUNT;
    DELETE FROM {schema}.idempotency AS i WHERE i.environment = of AND i.revision < cut;
    GET DIAGNOSTICS calls = ROW_COUNT;

    DELETE FROM {schema}.config_audit_log AS l USING {schema}.audit_line AS h
    WHERE h.environment = of AND h.revision < cut AND l.id = h.id;
    GET DIAGNOSTICS lines = ROW_COUNT;
    DELETE FROM {schema}.audit_line AS h WHERE h.environment = of AND h.revision < cut;

    archived := 0;
    FOR domain_table IN
        SELECT DISTINCT c.relname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE t.tgfoid = '{schema}.capture'::regproc AND c.relnamespace = '{schema}'::regnamespace ORDER BY c.relname
    LOOP
        EXECUTE format(
            'DELETE FROM {schema}.%I AS o WHERE o.environment = $1 AND o.status = ''archived'' AND o.updated_at <= $2'
            ' AND o.id NOT IN (SELECT DISTINCT ON (n.key) n.id FROM {schema}.%I AS n WHERE n.environment = $1'
            ' AND n.activated_at IS NOT NULL ORDER BY n.key, n.version DESC, n.id DESC)',
            domain_table, domain_table) USING of, long_ago;
        GET DIAGNOSTICS more = ROW_COUNT;
        archived := archived + more;
    END LOOP;

    IF greatest(entries, releases, lines, archived, calls) > 0 THEN
        UPDATE {schema}.environment SET pruned = cut WHERE name = of;
        INSERT INTO {schema}.config_audit_log (config_table, config_id, environment, key, action, old_values, new_values,
                                               changed_fields, reason, performed_by, source_ip, user_agent)
        VALUES ('environment', '00000000-0000-0000-0000-000000000000', of, '', 'prune',
                jsonb_build_object('pruned', place.pruned),
                jsonb_build_object('pruned', cut, 'kept', {schema}.kept_until(of, cut), 'releases', releases,
                                   'lines', lines, 'archived', archived, 'calls', calls, 'chain', (
                                       SELECT r.chain FROM {schema}.release AS r
                                       WHERE r.environment = of AND r.revision = cut)),
                ARRAY['pruned'], nullif(current_setting('configbus.reason', true), ''),
                {schema}.actor(), host(inet_client_addr()), current_setting('application_name'));
    END IF;
    revision := cut;
    RETURN NEXT;
END $$;
REVOKE EXECUTE ON FUNCTION {schema}.prune(text, timestamptz, boolean) FROM PUBLIC;

-- The same, from the cut on: what held there is vouched for by the line that tells of the pruning. Of an
-- entry those parts count as well that its hash does not tell apart, and that are published: digest, content, envelope.
CREATE OR REPLACE FUNCTION {schema}.broken_chain(of text) RETURNS TABLE (what text, number bigint, at timestamptz, why text)
LANGUAGE sql STABLE AS $$
    WITH place AS (SELECT * FROM {schema}.environment WHERE name = of),
    first AS (SELECT min(r.revision) AS revision FROM {schema}.release AS r, place
              WHERE r.environment = of AND r.chain IS NOT NULL AND r.revision >= place.pruned),
    chained AS (
        SELECT r AS whole, r.revision, r.released_at, r.chain, r.chain_before,
               lag(r.revision) OVER (ORDER BY r.revision) AS earlier, lag(r.chain) OVER (ORDER BY r.revision) AS chain_then
        FROM {schema}.release AS r, first, place
        WHERE r.environment = of AND r.revision >= greatest(first.revision - 1, place.pruned)),
    told AS (SELECT new_values AS cut FROM {schema}.config_audit_log
             WHERE environment = of AND config_table = 'environment' AND action = 'prune' ORDER BY id DESC LIMIT 1),
    hashed AS (SELECT * FROM {schema}.audit_line WHERE environment = of),
    apart AS (
        SELECT DISTINCT b.revision FROM {schema}.release_block AS b
        WHERE b.environment = of AND (
            b.digest IS DISTINCT FROM {schema}.digest(b.name, b.envelope || coalesce(b.content, '{}'))
            OR (b.content IS NULL) <> (b.envelope ? '@retired')
            OR b.envelope @? '$.keyvalue() ? (!(@.key starts with "@"))'
            OR b.content @? '$.keyvalue() ? (@.key starts with "@")'))
    SELECT 'line', l.id, l.performed_at, 'it is not what was written'
    FROM hashed AS h JOIN {schema}.config_audit_log AS l USING (id) WHERE h.digest <> {schema}.line_digest(l)
    UNION ALL
    SELECT 'line', h.id, c.released_at, 'it is gone' FROM hashed AS h LEFT JOIN chained AS c USING (revision)
    WHERE NOT EXISTS (SELECT FROM {schema}.config_audit_log AS l WHERE l.id = h.id)
    UNION ALL
    SELECT 'line', h.id, NULL, 'the release that covered it is gone' FROM hashed AS h
    WHERE h.revision IS NOT NULL AND NOT EXISTS (SELECT FROM chained AS c WHERE c.revision = h.revision)
    UNION ALL
    SELECT 'line', l.id, l.performed_at, 'it was put there: it has no hash'
    FROM {schema}.config_audit_log AS l
    WHERE l.environment = of AND NOT EXISTS (SELECT FROM hashed AS h WHERE h.id = l.id)
    UNION ALL
    SELECT 'release', c.revision, c.released_at,
           CASE WHEN c.earlier <> c.revision - 1 THEN 'the release before it is gone'
                WHEN c.chain IS NULL THEN 'it has no chain'
                WHEN c.revision <> place.pruned AND c.chain_before IS DISTINCT FROM c.chain_then
                    THEN 'it does not follow the release before it'
                ELSE 'it is not what was released' END
    FROM chained AS c, first, place
    WHERE c.revision >= first.revision
        AND (c.earlier <> c.revision - 1 OR c.chain IS NULL OR c.chain <> {schema}.chain_of(c.whole)
             OR c.revision <> place.pruned AND c.chain_before IS DISTINCT FROM c.chain_then
             OR c.revision IN (SELECT revision FROM apart))
    UNION ALL
    SELECT 'release', a.revision, r.released_at, 'it is not what was released'
    FROM apart AS a LEFT JOIN {schema}.release AS r ON r.environment = of AND r.revision = a.revision
    WHERE NOT EXISTS (SELECT FROM chained AS c, first WHERE c.revision = a.revision AND c.revision >= first.revision)
    UNION ALL
    SELECT 'release', pruned, NULL, CASE
        WHEN cut IS NULL OR (cut ->> 'pruned')::bigint <> pruned
            THEN 'what came before it is gone, and the audit log does not tell of it'
        WHEN r.state IS DISTINCT FROM {schema}.state_until(of, pruned) THEN 'what held then is not what was released'
        WHEN cut ->> 'kept' <> {schema}.kept_until(of, pruned) THEN 'what is kept from before is not what was kept'
        ELSE 'its hash is not what it was when history was pruned' END
    FROM place LEFT JOIN told ON true LEFT JOIN {schema}.release AS r ON r.environment = of AND r.revision = pruned
    WHERE pruned > 0 AND (cut IS NULL OR (cut ->> 'pruned')::bigint <> pruned OR cut ->> 'chain' IS DISTINCT FROM r.chain
                          OR r.state IS DISTINCT FROM {schema}.state_until(of, pruned)
                          OR cut ->> 'kept' <> {schema}.kept_until(of, pruned))
    UNION ALL
    SELECT 'release', e.revision, NULL, 'it is gone' FROM {schema}.environment AS e
    WHERE e.name = of AND e.revision > 0
        AND NOT EXISTS (SELECT FROM {schema}.release AS r WHERE r.environment = of AND r.revision = e.revision)
    ORDER BY 3 NULLS LAST, 1, 2
$$;

-- A relay raises the epoch above what it found in Redis, no further than workers would follow, nor by its word alone
-- more than some thirty years ahead of the clock: whoever has its password could use up all epochs.
CREATE OR REPLACE FUNCTION {schema}.raise_epoch(of text, expected bigint, above bigint, why text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place {schema}.environment;
    raised bigint;
BEGIN
    SELECT * INTO STRICT place FROM {schema}.environment WHERE name = of FOR NO KEY UPDATE;
    IF place.epoch <> expected THEN
        RETURN NULL;
    END IF;
    IF above > place.epoch + 1000000000000 OR above > greatest(
        place.epoch, floor(extract(epoch FROM clock_timestamp()))::bigint * 1000 + 1000000000000) THEN
        RAISE EXCEPTION 'no epoch can lie at %: whatever named it is damaged, or the clock here is wrong. Where it is the '
            'head in Redis: DEL that, and restart the workers that stay stale', above
            USING ERRCODE = 'numeric_value_out_of_range';
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
