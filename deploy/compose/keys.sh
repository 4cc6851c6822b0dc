# Creates PostgreSQL's password and the encryption key, unless they exist, as files that only their readers can open. Values of
# .env replace them.
folder=${KEYS:-/keys}
random() { head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
# put FILE USER CONTENT
put() {
  umask 077
  printf '%s\n' "$3" > "$folder/.$1"
  chown "$2" "$folder/.$1"
  chmod 0400 "$folder/.$1"
  mv -f "$folder/.$1" "$folder/$1"
}

password=${POSTGRES_PASSWORD:-}
if [ -z "$password" ] && [ -s "$folder/postgres-password" ]; then password=$(cat "$folder/postgres-password"); fi
if [ -z "$password" ]; then password=$(random 24); fi
keys=${PENSTOCK_ENCRYPTION_KEYS:-}
if [ -z "$keys" ] && [ -s "$folder/encryption-keys" ]; then keys=$(cat "$folder/encryption-keys"); fi
if [ -z "$keys" ]; then keys="k1:$(head -c 32 /dev/urandom | base64 | tr -d '\n')"; fi

put postgres-password 999:999 "$password"
put database-url 65532:65532 "postgres://penstock:$password@postgres:5432/penstock"
put encryption-keys 65532:65532 "$keys"
