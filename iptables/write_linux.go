package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"svcproxy/plan"
)

// textPerRule is about how many bytes of text a rule takes, with its share of the line for its chain.
const textPerRule = 160

// writer runs transactions.
type writer struct {
	kernel *kernel
	log    *zap.Logger
	// most is the size in bytes that a transaction's text may have; 0 means any. In an unprivileged user
	// namespace, iptables on the nf_tables kernel API can't send more than a socket's buffer at once.
	most int
}

// write runs the transactions one by one. If one is refused, those before it are taken back, so that the
// kernel holds what it held before.
func (w *writer) write(ctx context.Context, deltas []delta) (written int, err error) {
	deltas = slices.Clone(deltas)
	if w.most > 0 {
		deltas = w.split(deltas)
	}
	for i := 0; i < len(deltas); {
		d := &deltas[i]
		input := d.appendText(make([]byte, 0, textPerRule*d.rules))
		start := time.Now()
		err := w.kernel.restore(ctx, input)
		if errors.Is(err, errTooLong) {
			w.most = len(input) / 2
			if rest := w.split(deltas[i:]); len(rest) > len(deltas)-i {
				w.log.Info("transactions are split, since the kernel takes none of this size", zap.Int("bytes", len(input)))
				deltas = append(deltas[:i], rest...)
				continue
			}
		}
		if err != nil {
			return 0, w.takeBack(ctx, deltas[:i], err)
		}
		w.log.Debug("iptables-restore", zap.String("table", d.table),
			zap.Int("chains", len(d.write)+len(d.remove)), zap.Int("rules", d.rules), zap.Int("bytes", len(input)),
			zap.Duration("took", time.Since(start)))
		written += d.rules
		i++
	}
	return written, nil
}

func (w *writer) split(deltas []delta) []delta {
	var pieces []delta
	for i := range deltas {
		pieces = append(pieces, deltas[i].split(w.most)...)
	}
	return pieces
}

// takeBack undoes transactions after a later one failed, and returns its error: a *plan.RefusedError only
// if the kernel holds what it held before.
func (w *writer) takeBack(ctx context.Context, deltas []delta, cause error) error {
	var refused *plan.RefusedError
	if !errors.As(cause, &refused) {
		return cause
	}
	for _, d := range slices.Backward(deltas) {
		undo := d.undo()
		if undo.empty() {
			continue
		}
		if err := w.kernel.restore(ctx, undo.appendText(nil)); err != nil {
			return fmt.Errorf("take back what came before in table %s: %v; after: %v", d.table, err, cause)
		}
	}
	return cause
}
