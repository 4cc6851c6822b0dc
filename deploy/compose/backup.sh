# One backup of everything in /backup/TIME: the database, the objects, the encryption key. Nothing may write meanwhile
# (docs/operate.md#compose). A backup that broke off has no such name.
time=$(date -u +%Y%m%dT%H%M%SZ)
part="${BACKUP:-/backup}/.part-$time"
umask 077
mkdir -p "$part"
PGPASSWORD=$(cat "${KEYS:-/keys}/postgres-password")
export PGPASSWORD
pg_dump --host postgres --username penstock --dbname penstock --format custom --file "$part/database.dump"
tar -C "${OBJECTS:-/objects}" -cf "$part/objects.tar" .
cp "${KEYS:-/keys}/encryption-keys" "$part/encryption-keys"
mv "$part" "${BACKUP:-/backup}/$time"
echo "$time"
