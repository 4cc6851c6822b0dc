# Puts a backup in the place of what is there: `docker compose run --rm restore TIME`.
from="${BACKUP:-/backup}/${1:?name a backup: one of the folders of ./backup}"
for file in database.dump objects.tar encryption-keys; do
  if [ ! -s "$from/$file" ]; then echo "$from/$file is not there" >&2; exit 1; fi
done
PGPASSWORD=$(cat "${KEYS:-/keys}/postgres-password")
export PGPASSWORD
pg_restore --host postgres --username penstock --dbname penstock --clean --if-exists --no-owner --single-transaction "$from/database.dump"
find "${OBJECTS:-/objects}" -mindepth 1 -delete
tar -C "${OBJECTS:-/objects}" -xf "$from/objects.tar"
umask 077
cp "$from/encryption-keys" "${KEYS:-/keys}/.encryption-keys"
chown 65532:65532 "${KEYS:-/keys}/.encryption-keys"
chmod 0400 "${KEYS:-/keys}/.encryption-keys"
mv -f "${KEYS:-/keys}/.encryption-keys" "${KEYS:-/keys}/encryption-keys"
echo "restored $1"
