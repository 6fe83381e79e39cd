// Package clusterdns makes DNS zones of a cluster's objects: of manifest files or of an API server, followed as they
// change. It looks at all Services. The proxy's own watches leave out those without a virtual address, which DNS serves
// too.
package clusterdns
