// Package bench measures the way from memory to a real kernel, in namespaces of its own:
//
//	go test -run '^$' -bench . -benchtime 1x ./test/bench/
//
// It prints figures beside those of a peer in the same run, since only their ratio says something on another
// machine. Its ordinary tests check in a smaller size what does not depend on speed.
package bench

import (
	"testing"

	"svcproxy/test/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
