package sandbox_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"svcproxy/sandbox"
	"svcproxy/test/nstest"
)

func TestManyPodsComeAndGoQuickly(t *testing.T) {
	nstest.Require(t)
	count := nstest.Sized(20, 100)
	layer := image(t, "sleep")
	node := newNode(t, sandbox.NodeConfig{Name: "node"})
	begin := time.Now()
	var wg sync.WaitGroup
	limit := make(chan struct{}, 4)
	for i := range count {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			pod, err := node.AddPod(sandbox.PodConfig{
				Name:  fmt.Sprintf("default/web-%d", i),
				Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(2 + i)})},
				Pause: &sandbox.PauseConfig{Users: users(t)},
			})
			if err == nil {
				_, err = pod.StartContainer(sandbox.ContainerConfig{
					Name: "main", Layers: []string{layer}, Args: []string{"/bin/sleep", "1000"}, Profile: profile(),
				})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	up := time.Since(begin)
	begin = time.Now()
	if err := node.Close(); err != nil {
		t.Error(err)
	}
	down := time.Since(begin)
	t.Logf("%d pods up in %v, down in %v", count, up, down)
	if perPod := up / time.Duration(count); perPod > 100*time.Millisecond {
		t.Errorf("%d pods took %v to come up, more than 10 s a hundred", count, up)
	}
	if perPod := down / time.Duration(count); perPod > 50*time.Millisecond {
		t.Errorf("%d pods took %v to go, more than 5 s a hundred", count, down)
	}
}
