package proxier

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"svcproxy/model"
)

// HeldBackError says that everything is programmed but some Services, which can't be.
type HeldBackError struct {
	Families map[model.Family][]Quarantined
}

func (e *HeldBackError) Error() string {
	var texts []string
	for _, family := range model.Families {
		for _, q := range e.Families[family] {
			texts = append(texts, fmt.Sprintf("%s, %s: %v", q.Service, family, q.Err))
		}
	}
	return "held back: " + strings.Join(texts, "; ")
}

// Applied waits until all that the source gave before the call is programmed in every family. It
// hurries nothing: changes are paced as ever, and a failed sync is repeated in its own time. When all but the
// Services in quarantine are programmed, the error is a HeldBackError that names them; their last good rules
// are in force. When ctx ends before, the error also says why the last sync failed, if it did.
func (p *Proxier) Applied(ctx context.Context) error {
	want := map[model.Family]uint64{}
	for family, l := range p.loops {
		want[family] = l.tracker.current()
	}
	held := map[model.Family][]Quarantined{}
	for _, family := range model.Families {
		l := p.loops[family]
		if l == nil {
			continue
		}
		quarantined, err := l.waitFor(ctx, want[family], p.ended)
		if err != nil {
			return fmt.Errorf("%s: %w", family, err)
		}
		if len(quarantined) > 0 {
			held[family] = quarantined
		}
	}
	if len(held) > 0 {
		return &HeldBackError{Families: held}
	}
	return nil
}

// waitFor waits until a version is programmed, and returns the Services that are not.
func (p *pipeline) waitFor(ctx context.Context, version uint64, ended <-chan struct{}) ([]Quarantined, error) {
	for {
		p.mu.Lock()
		applied, published, status := p.applied, p.published, p.public
		p.mu.Unlock()
		if applied >= version {
			return status.Quarantined, nil
		}
		select {
		case <-published:
		case <-ended:
			return nil, errors.New("not programmed: the proxy has stopped")
		case <-ctx.Done():
			if status.Err != nil {
				return nil, fmt.Errorf("not programmed: %w; the last sync failed: %w", ctx.Err(), status.Err)
			}
			return nil, fmt.Errorf("not programmed: %w", ctx.Err())
		}
	}
}
