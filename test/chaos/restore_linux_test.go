package chaos

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// TestNoRestoreOutlivesItsProxy kills svcproxy while an iptables-restore of its runs. If that went on, it
// would write old rules over those of the next start.
func TestNoRestoreOutlivesItsProxy(t *testing.T) {
	w := newWorld(t)
	d := newDetour(t, dataplane.IPTablesLegacy, "")
	v := w.start(t, dataplane.IPTablesLegacy, fault{}, d.env())
	v.send(t, newChurn(1, 5, w.servers).all())
	pid := d.wait(t)
	v.kill()
	nstest.Eventually(t, tooLong, func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("iptables-restore outlived the proxy that started it: %v", err)
		}
		return nil
	})
}

// TestKillBetweenTransactions kills svcproxy when iptables-restore has written one table and the other is still
// as it was, after Services changed while it was down.
func TestKillBetweenTransactions(t *testing.T) {
	for _, plane := range []dataplane.Plane{dataplane.IPTablesLegacy, dataplane.IPTablesNFT} {
		t.Run(plane.Name, func(t *testing.T) {
			s := seed(t)
			w := newWorld(t)
			h := &hunt{t: t, world: w, plane: plane, churn: newChurn(s, 40, w.servers)}
			for range nstest.Sized(3, 6) {
				for range 5 {
					h.churn.next()
				}
				d := newDetour(t, plane, `"$real" "$@" || exit $?`)
				v := w.start(t, plane, fault{}, d.env())
				v.send(t, h.churn.all())
				d.wait(t)
				v.kill()
				if h.check() != nil {
					h.halfway++
				}
				next := w.start(t, plane, fault{})
				h.restart(next)
				next.kill()
			}
			if h.halfway == 0 {
				t.Error("no kill left anything to put right: the test proves nothing")
			}
		})
	}
}
