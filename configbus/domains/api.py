"""How hard the providers of prices, tokens and transactions are asked, and how long their answers are good for."""

from pydantic import Field

from configbus.block import Block
from configbus.domains.quantities import RequestsPerMinute, Seconds, SecondsOrZero


class ApiConfig(Block, domain="api"):
    """Rate limits per provider, timeouts, retries and caches."""

    dexscreener_requests_per_minute: RequestsPerMinute = Field(
        30, description="requests to DexScreener allowed, per minute"
    )
    birdeye_requests_per_minute: RequestsPerMinute = Field(60, description="requests to Birdeye allowed, per minute")
    jupiter_requests_per_minute: RequestsPerMinute = Field(100, description="requests to Jupiter allowed, per minute")
    helius_requests_per_minute: RequestsPerMinute = Field(100, description="requests to Helius allowed, per minute")
    api_timeout_seconds: Seconds = Field(10, description="longest wait for a provider's answer, in seconds")
    rpc_timeout_seconds: Seconds = Field(30, description="longest wait for an answer to a chain's RPC, in seconds")
    api_retry_count: int = Field(3, ge=0, le=100, description="retries of a failed request, the first try not included")
    api_retry_backoff_seconds: SecondsOrZero = Field(1, description="wait before a retry, in seconds")
    price_cache_ttl_seconds: SecondsOrZero = Field(5, description="how long a price is kept in the cache, in seconds")
    token_info_cache_ttl_seconds: SecondsOrZero = Field(
        300, description="how long facts about a token are kept in the cache, in seconds"
    )
