-- Rights by what somebody does, not by table: triggers and functions write history with their owner's rights, so that
-- nobody else needs any on releases, environments and the audit log. The owner is whoever migrates.

ALTER FUNCTION {schema}.audit() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION {schema}.capture() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION {schema}.seal() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION {schema}.raise_epoch(text, bigint, bigint, text) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;

-- What a relay put right in Redis: what it found there, and what it set it to.
CREATE FUNCTION {schema}.record_repair(of text, config_table text, config_id uuid, block_key text, found jsonb,
                                       expected jsonb) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO {schema}.config_audit_log (config_table, config_id, environment, key, action, old_values, new_values,
                                           changed_fields, reason, performed_by, source_ip, user_agent)
    VALUES (config_table, config_id, of, block_key, 'repair', found, expected,
            {schema}.changed_fields(found, expected), 'Redis differed', {schema}.actor(), host(inet_client_addr()),
            current_setting('application_name'))
$$;

REVOKE EXECUTE ON FUNCTION {schema}.audit(), {schema}.seal(), {schema}.raise_epoch(text, bigint, bigint, text),
    {schema}.record_repair(text, text, uuid, text, jsonb, jsonb),
    {schema}.lock_environment(text), {schema}.capture_block(text, text, boolean, {schema}.environment, text, uuid)
    FROM PUBLIC;
