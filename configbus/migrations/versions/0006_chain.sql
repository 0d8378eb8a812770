-- A chain through history: each release hashes the one before it, its own contents, and every line of the audit log
-- that was committed since. Whoever changes or removes a line breaks it; whoever cuts its end is found out by the newest
-- hash, which stands in Redis and in the relay's log.

ALTER TABLE {schema}.release ADD COLUMN chain_before text, ADD COLUMN chain text;
COMMENT ON COLUMN {schema}.release.chain IS 'SHA-256 over the chain before, the release, its blocks and the lines it covers';

CREATE TABLE {schema}.audit_line (
    id bigint PRIMARY KEY,
    environment text NOT NULL,
    digest text NOT NULL,
    revision bigint
);
CREATE INDEX audit_line_pending ON {schema}.audit_line (environment) WHERE revision IS NULL;
CREATE INDEX audit_line_release ON {schema}.audit_line (environment, revision);
COMMENT ON TABLE {schema}.audit_line IS 'the hash of each line of the audit log';
COMMENT ON COLUMN {schema}.audit_line.revision IS 'the release that covers it; null until there is one';

CREATE FUNCTION {schema}.line_digest(line {schema}.config_audit_log) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT encode(sha256(convert_to((to_jsonb(line) - 'performed_at' || jsonb_build_object('at',
        {schema}.instant(line.performed_at)))::text, 'UTF8')), 'hex')
$$;

CREATE FUNCTION {schema}.chain_of(of {schema}.release) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT encode(sha256(convert_to(jsonb_build_array(
        of.chain_before, of.environment, of.revision, of.epoch, of.state, of.prev, {schema}.instant(of.released_at),
        of.actor, of.reason, of.source,
        (SELECT jsonb_agg(jsonb_build_array(b.name, {schema}.digest(b.name, b.envelope || coalesce(b.content, '{}')))
                          ORDER BY b.name COLLATE "C")
         FROM {schema}.release_block AS b WHERE b.environment = of.environment AND b.revision = of.revision),
        (SELECT jsonb_agg(jsonb_build_array(line.id, line.digest) ORDER BY line.id)
         FROM {schema}.audit_line AS line
         WHERE line.environment = of.environment AND line.revision = of.revision))::text, 'UTF8')), 'hex')
$$;

CREATE FUNCTION {schema}.hash_line() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO {schema}.audit_line (id, environment, digest) VALUES (NEW.id, NEW.environment, {schema}.line_digest(NEW));
    RETURN NULL;
END $$;
CREATE TRIGGER hashed AFTER INSERT ON {schema}.config_audit_log FOR EACH ROW EXECUTE FUNCTION {schema}.hash_line();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON {schema}.audit_line
    EXECUTE FUNCTION {schema}.refuse('the audit log only grows');
CREATE TRIGGER history BEFORE UPDATE ON {schema}.audit_line
    FOR EACH ROW WHEN (OLD.revision IS NOT NULL OR OLD.digest <> NEW.digest)
    EXECUTE FUNCTION {schema}.refuse('the audit log only grows');

-- Deferred behind all captures of the transaction: partners, digests, state and chain.
CREATE OR REPLACE FUNCTION {schema}.seal() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
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
    UPDATE {schema}.audit_line SET revision = NEW.revision WHERE environment = NEW.environment AND revision IS NULL;
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
        WHERE now.environment = NEW.environment AND now.revision = NEW.revision),
        chain_before = (SELECT chain FROM {schema}.release
                        WHERE environment = NEW.environment AND revision = NEW.revision - 1),
        chain = NULL
    WHERE environment = NEW.environment AND revision = NEW.revision;
    UPDATE {schema}.release AS r SET chain = {schema}.chain_of(r)
    WHERE environment = NEW.environment AND revision = NEW.revision;
    RETURN NULL;
END $$;

-- What does not fit, first by first: a line of the audit log, a release, or the end of both.
CREATE FUNCTION {schema}.broken_chain(of text) RETURNS TABLE (what text, number bigint, at timestamptz, why text)
LANGUAGE sql STABLE AS $$
    WITH first AS (SELECT min(revision) AS revision FROM {schema}.release WHERE environment = of AND chain IS NOT NULL),
    chained AS (
        SELECT r AS whole, r.revision, r.released_at, r.chain, r.chain_before,
               lag(r.revision) OVER (ORDER BY r.revision) AS earlier, lag(r.chain) OVER (ORDER BY r.revision) AS chain_then
        FROM {schema}.release AS r, first WHERE r.environment = of AND r.revision >= first.revision - 1),
    hashed AS (SELECT * FROM {schema}.audit_line WHERE environment = of)
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
    WHERE l.environment = of AND l.id > (SELECT min(id) FROM hashed)
        AND NOT EXISTS (SELECT FROM hashed AS h WHERE h.id = l.id)
    UNION ALL
    SELECT 'release', c.revision, c.released_at,
           CASE WHEN c.earlier <> c.revision - 1 THEN 'the release before it is gone'
                WHEN c.chain IS NULL THEN 'it has no chain'
                WHEN c.chain_before IS DISTINCT FROM c.chain_then THEN 'it does not follow the release before it'
                ELSE 'it is not what was released' END
    FROM chained AS c, first
    WHERE c.revision >= first.revision
        AND (c.earlier <> c.revision - 1 OR c.chain IS NULL OR c.chain_before IS DISTINCT FROM c.chain_then
             OR c.chain <> {schema}.chain_of(c.whole))
    UNION ALL
    SELECT 'release', e.revision, NULL, 'it is gone' FROM {schema}.environment AS e
    WHERE e.name = of AND e.revision > 0
        AND NOT EXISTS (SELECT FROM {schema}.release AS r WHERE r.environment = of AND r.revision = e.revision)
    ORDER BY 3 NULLS LAST, 1, 2
$$;

REVOKE EXECUTE ON FUNCTION {schema}.hash_line(), {schema}.seal() FROM PUBLIC;
