//! The rights that the queue and the limiter need of Redis.

use penstock_redis::Connection;

use super::keys::Keys;
use crate::QueueError;

/// Uses every command that is needed once, on a key that holds a text: what is permitted fails for the kind of the key, or does
/// nothing. What is not permitted is returned, with `INFO`, without which less is known and nothing fails.
/// `KEYS`: the key, which exists.
const PROBE: &str = "
local key, missing = KEYS[1], {}
for _, words in ipairs({
  {'SADD', key, 1}, {'SREM', key, 1}, {'SMEMBERS', key},
  {'LLEN', key}, {'LPUSH', key, 1}, {'RPUSH', key, 1}, {'LRANGE', key, 0, 0}, {'LTRIM', key, 0, 0},
  {'HSET', key, 1, 1}, {'HSETNX', key, 1, 1}, {'HMSET', key, 1, 1}, {'HMGET', key, 1}, {'HGETALL', key}, {'HDEL', key, 1},
  {'HLEN', key},
  {'ZADD', key, 1, 1}, {'ZREM', key, 1}, {'ZCARD', key}, {'ZCOUNT', key, 0, 0}, {'ZSCORE', key, 1}, {'ZRANGE', key, 0, 0},
  {'ZREVRANGE', key, 0, 0}, {'ZRANGEBYSCORE', key, 0, 0}, {'ZREMRANGEBYSCORE', key, 0, 0}, {'ZUNIONSTORE', key, 1, key},
  {'PEXPIRE', key, ARGV[1]}, {'DEL', key}, {'TIME'}, {'INFO', 'server'} }) do
  local answer = redis.pcall(unpack(words))
  local refused = type(answer) == 'table' and answer.err or ''
  if string.find(refused, 'NOPERM', 1, true) or string.find(refused, 'permission', 1, true)
    or string.find(refused, \"can't run this command\", 1, true) then
    missing[#missing + 1] = string.lower(words[1])
  end
end
return missing";

/// What `INFO` would tell is missing, and nothing else.
pub(super) const INFO: &str = "info";

/// The commands that this user of Redis may not use, or not with this installation's keys.
pub(super) async fn missing(connection: &Connection, kept_ms: u128) -> Result<Vec<String>, QueueError> {
    let key = Keys::of(connection).await?.ready();
    let mut asked = connection.clone();
    let script = redis::Script::new(PROBE);
    script.key(key).arg(kept_ms.to_string()).invoke_async(&mut asked).await.map_err(QueueError::new)
}
