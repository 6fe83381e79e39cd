package churn

import (
	"context"
	"strings"
	"testing"
	"time"

	"svcproxy/plan"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// lateBackend says that a change is in the kernel when only the one before it is.
type lateBackend struct {
	proxier.Backend
	owed *plan.Change
}

// Apply implements proxier.Backend.
func (b *lateBackend) Apply(ctx context.Context, c plan.Change) (res plan.Result, err error) {
	if c.Full {
		b.owed = nil
		return b.Backend.Apply(ctx, c)
	}
	if b.owed != nil {
		res, err = b.Backend.Apply(ctx, *b.owed)
	}
	b.owed = &c
	return res, err
}

// A test that can't fail proves nothing: proxiers that are wrong on purpose must be found out.
func TestWrongProxiersAreFoundOut(t *testing.T) {
	for name, c := range map[string]struct {
		wrong fault
		want  string
	}{
		"changes are applied one sync late":     {late, "not so by any of the"},
		"connection tracking is not cleaned up": {forgetful, "removed more than one sync ago"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, dataplane.NFTables, c.wrong)
			r.immortal = true
			var found string
			for range 3 {
				for _, o := range live {
					o.do(r.driver, r.casts[web])
				}
				now := time.Now()
				nstest.Eventually(t, 2*patience, func() error { return r.load.answered(now) })
			}
			r.load.stop()
			for _, err := range r.verdict() {
				found += err.Error() + "\n"
			}
			if !strings.Contains(found, c.want) {
				t.Errorf("was not found out: %q", found)
			}
		})
	}
}
