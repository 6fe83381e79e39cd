package cluster

import "context"

// publisher keeps what pods may mount true while pods come and go: the objects of the cluster, which a pod that serves
// DNS reads, change with every pod that gets ready. Many changes at once are published as one.
type publisher struct {
	stale chan struct{}
	stop  context.CancelFunc
	ended chan struct{}
}

func newPublisher(publish func()) *publisher {
	ctx, stop := context.WithCancel(context.Background())
	p := &publisher{stale: make(chan struct{}, 1), stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-p.stale:
				publish()
			}
		}
	}()
	return p
}

// changed says that there is something to publish.
func (p *publisher) changed() {
	select {
	case p.stale <- struct{}{}:
	default:
	}
}

// Close returns when nothing is being published any more.
func (p *publisher) Close() error {
	p.stop()
	<-p.ended
	return nil
}
