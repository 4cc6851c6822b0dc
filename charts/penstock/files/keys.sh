# Creates the Secret of the bundled services, $SECRET in $NAMESPACE, unless it exists.
account=${ACCOUNT:-/var/run/secrets/kubernetes.io/serviceaccount}
api="https://kubernetes.default.svc/api/v1/namespaces/$NAMESPACE/secrets"
random() { head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
password=$(random 24)
answer=$(curl --silent --show-error --retry 5 --retry-connrefused --cacert "$account/ca.crt" --output /dev/null --write-out '%{http_code}' \
  --header "Authorization: Bearer $(cat "$account/token")" --header 'Content-Type: application/json' --data-binary @- "$api" <<END
{
  "apiVersion": "v1", "kind": "Secret",
  "metadata": { "name": "$SECRET", "labels": { "app.kubernetes.io/instance": "$INSTANCE" } },
  "stringData": {
    "POSTGRES_PASSWORD": "$password",
    "DATABASE_URL": "postgres://penstock:$password@$SECRET-postgres:5432/penstock",
    "REDIS_URL": "redis://$SECRET-redis:6379",
    "OBJECT_STORE_URL": "s3://penstock/files",
    "AWS_ENDPOINT": "http://$SECRET-objects:8333",
    "AWS_ALLOW_HTTP": "true",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "penstock",
    "AWS_SECRET_ACCESS_KEY": "$(random 32)",
    "PENSTOCK_ENCRYPTION_KEYS": "k1:$(head -c 32 /dev/urandom | base64 | tr -d '\n')"
  }
}
END
)
case "$answer" in
  201) echo "created the Secret $SECRET" ;;
  409) echo "the Secret $SECRET exists" ;;
  *) echo "the Kubernetes API answered $answer: cannot create the Secret $SECRET"; exit 1 ;;
esac
