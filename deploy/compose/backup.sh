# Writes /backup/TIME with the database, the objects and the encryption key. Stop everything that writes first
# (docs/operate.md#compose). The folder has another name until the backup is complete.
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
