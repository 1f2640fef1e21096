// An API that says what it was told, without what is secret: of a variable of the vault, a digest.
const { createHash } = require('node:crypto')
const { existsSync } = require('node:fs')
const { createServer } = require('node:http')

const { PORT, HOST, SERVICE_ID, SERVICE_COMMIT, ENVIRONMENT_ID, ENVIRONMENT_MODE, DISCOVERY_URL, DATABASE_PASSWORD = '' } = process.env

const REVISION = 1

// From its third revision on it needs a database, and does not start without.
if (REVISION > 2 && existsSync('/srv/orders/no-database')) {
  console.error('there is no database')
  process.exit(1)
}

createServer((request, response) => {
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({
    service: SERVICE_ID,
    revision: REVISION,
    commit: SERVICE_COMMIT,
    process: process.pid,
    environment: `${ENVIRONMENT_ID} ${ENVIRONMENT_MODE}`,
    discovery: DISCOVERY_URL,
    password: createHash('sha256').update(DATABASE_PASSWORD).digest('hex'),
    path: request.url,
    prefix: request.headers['x-forwarded-prefix'] ?? ''
  }))
}).listen(Number(PORT), HOST)
