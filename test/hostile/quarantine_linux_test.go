package hostile

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"svcproxy/model"
	"svcproxy/test/dataplane"
	"svcproxy/test/nstest"
)

// TestRefusedServicesStopNoOthers lets the kernel refuse a few Services for a reason that nobody foresaw. It
// names none of them.
func TestRefusedServicesStopNoOthers(t *testing.T) {
	for _, d := range []dataplane.Plane{dataplane.NFTables, dataplane.IPTablesLegacy} {
		t.Run(d.Name, func(t *testing.T) {
			var refused []model.ServiceName
			var all []any
			for i := range 50 {
				all = append(all, plainService(i))
				if i%20 == 7 {
					refused = append(refused, model.ServiceName{Namespace: hostileNamespace, Name: fmt.Sprintf("plain-%d", i)})
				}
			}
			w, source := newCluster(t), newFeed()
			p := startProxy(t, w, d, source, refused...)
			sink := <-source.sink
			source.give(sink, all[:20]...) // among them one to refuse from the start
			source.give(sink, healthy()...)
			sink.Synced()
			p.waitForQuarantine(t, refused[:1])
			w.askHealthy(t)

			source.give(sink, all[20:]...)
			p.waitForQuarantine(t, refused)
			for _, name := range refused {
				delete(source.taken.Services, name)
			}
			p.waitFor(t, source.taken)
			p.check(t, source.taken)
			p.checkHealthy(t)
		})
	}
}

func plainService(i int) *corev1.Service {
	v4, v6 := fmt.Sprintf("10.96.50.%d", i), fmt.Sprintf("fd00:10:96::5:%x", i)
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: hostileNamespace, Name: fmt.Sprintf("plain-%d", i)},
		Spec: corev1.ServiceSpec{ClusterIP: v4, ClusterIPs: []string{v4, v6},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}},
	}
}

// waitForQuarantine waits until exactly these Services are in quarantine.
func (p *proxy) waitForQuarantine(t *testing.T, want []model.ServiceName) {
	t.Helper()
	slices.SortFunc(want, model.ServiceName.Compare)
	for f := range p.backends {
		nstest.Eventually(t, time.Minute, func() error {
			var names []model.ServiceName
			for _, q := range p.Status().Families[f].Quarantined {
				names = append(names, q.Service)
			}
			if !slices.Equal(names, want) {
				return fmt.Errorf("%s: in quarantine are %v, want %v", f, names, want)
			}
			return nil
		})
	}
}
