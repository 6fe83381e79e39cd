// Package escape attacks pods from inside: each test is an attacker who is root in a pod
// with the default profile, and tries one way out of it, or to something of the host.
package escape

import (
	"testing"

	"svcproxy/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// The pod of an ordinary user is in a user namespace with that user alone.
func TestPodsOfAnOrdinaryUserHoldToo(t *testing.T) {
	nstest.Unprivileged(t, "^TestAttacker.*")
}
