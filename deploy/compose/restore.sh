# Replaces the database, the objects and the encryption key by those of a backup: `docker compose run --rm restore TIME`.
from="${BACKUP:-/backup}/${1:?name a backup: one of the folders of ./backup}"
for file in database.dump objects.tar encryption-keys; do
  if [ ! -s "$from/$file" ]; then echo "$from/$file is not there" >&2; exit 1; fi
done
PGPASSWORD=$(cat "${KEYS:-/keys}/postgres-password")
export PGPASSWORD
# Tables that a newer release added go too. If a restore fails, run it again: it does not change the backup.
psql --host postgres --username penstock --dbname penstock --quiet --set ON_ERROR_STOP=1 --command 'DROP SCHEMA public CASCADE; CREATE SCHEMA public'
pg_restore --host postgres --username penstock --dbname penstock --no-owner --single-transaction "$from/database.dump"
find "${OBJECTS:-/objects}" -mindepth 1 -delete
tar -C "${OBJECTS:-/objects}" -xf "$from/objects.tar"
umask 077
cp "$from/encryption-keys" "${KEYS:-/keys}/.encryption-keys"
chown 65532:65532 "${KEYS:-/keys}/.encryption-keys"
chmod 0400 "${KEYS:-/keys}/.encryption-keys"
mv -f "${KEYS:-/keys}/.encryption-keys" "${KEYS:-/keys}/encryption-keys"
echo "restored $1"
