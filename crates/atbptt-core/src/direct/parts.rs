//! Parts of what was measured: fewer probes or fewer cuts, as if no more had been run. For experiments that record once.

use super::statistics::DirectStatistics;
use crate::EstimateError;

impl DirectStatistics {
    /// The probes in sets of `probes` each, in order; those left over belong to none. Each set is as good as one measured on its
    /// own.
    ///
    /// # Errors
    /// [`EstimateError::TooFewProbes`] for sets of fewer than two probes.
    pub fn in_sets_of(&self, probes: usize) -> Result<Vec<Self>, EstimateError> {
        if probes < 2 {
            return Err(EstimateError::TooFewProbes {
                needed: 2,
                got: probes,
            });
        }
        let pieces = self.pieces();
        let mut sets = Vec::new();
        for group in self.groups() {
            let side = group.probes * pieces;
            for first in (0..group.probes / probes).map(|set| set * probes) {
                let of_set = first * pieces..(first + probes) * pieces;
                let rows = group
                    .gram
                    .chunks(side)
                    .skip(of_set.start)
                    .take(of_set.len());
                let gram = rows.filter_map(|row| row.get(of_set.clone())).flatten();
                let set = Self::new(
                    self.window(),
                    self.losses(),
                    self.contexts().to_vec(),
                    probes,
                    gram.copied().collect(),
                )?;
                sets.push(set.drawn_as(self)?);
            }
        }
        Ok(sets)
    }

    /// The same probes, cut at fewer places.
    ///
    /// - `contexts`: some of [`contexts`](Self::contexts), 0 among them, ascending
    ///
    /// # Errors
    /// [`EstimateError::Contexts`] for cuts out of order, or others than were made.
    pub fn at_contexts(&self, contexts: &[usize]) -> Result<Self, EstimateError> {
        let known = self.contexts();
        if !contexts.iter().all(|c| known.contains(c)) {
            return Err(EstimateError::Contexts {
                contexts: contexts.to_vec(),
                window: self.window(),
            });
        }
        // A piece older than the cuts 0..=p of the old ones is older than those of the new ones among them.
        let older = known
            .iter()
            .map(|cut| contexts.iter().filter(|c| *c <= cut).count());
        let target: Vec<usize> = std::iter::once(0)
            .chain(older)
            .take(self.pieces())
            .collect();
        let pieces = contexts.len() + usize::from(target.last() == Some(&contexts.len()));
        let mut joined: Option<Self> = None;
        for group in self.groups() {
            let (old, new) = (group.probes * target.len(), group.probes * pieces);
            let at = |index: usize| {
                let piece = target.get(index % target.len()).copied().unwrap_or(0);
                index / target.len() * pieces + piece
            };
            let mut gram = vec![0.0; new * new];
            for (index, product) in group.gram.iter().enumerate() {
                if let Some(sum) = gram.get_mut(at(index / old) * new + at(index % old)) {
                    *sum += product;
                }
            }
            let (window, losses) = (self.window(), self.losses());
            let part = Self::new(window, losses, contexts.to_vec(), group.probes, gram)?;
            joined = Some(match joined {
                Some(all) => all.merge(part)?,
                None => part,
            });
        }
        // There is at least one group.
        let joined = joined.ok_or(EstimateError::TooFewProbes { needed: 2, got: 0 })?;
        joined.drawn_as(self)
    }

    /// A part of what others measured, whose windows were drawn as theirs.
    fn drawn_as(self, whole: &Self) -> Result<Self, EstimateError> {
        match whole.population() {
            Some(windows) => self.out_of(windows),
            None => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pieces of probe i are (i + 1) and 1/(i + 1) of a unit vector each, the third is 1.
    fn of(probes: std::ops::Range<usize>, contexts: &[usize]) -> DirectStatistics {
        let sizes: Vec<f64> = probes
            .clone()
            .flat_map(|i| [i as f64 + 1.0, 1.0 / (i as f64 + 1.0), 1.0])
            .collect();
        let gram = sizes.iter().flat_map(|a| sizes.iter().map(move |b| a * b));
        let gram = gram.collect();
        DirectStatistics::new(9, 1, contexts.to_vec(), probes.len(), gram).unwrap()
    }

    #[test]
    fn sets_of_probes_are_as_if_measured_alone() {
        let cuts = [0, 3, 8];
        let sets = of(0..7, &cuts).in_sets_of(3).unwrap();
        assert_eq!(sets, [of(0..3, &cuts), of(3..6, &cuts)]);
        let merged = of(0..3, &cuts).merge(of(3..6, &cuts)).unwrap();
        assert_eq!(merged.in_sets_of(3).unwrap(), sets);
        assert_eq!(merged.in_sets_of(4).unwrap(), []);
        let drawn = of(0..7, &cuts).out_of(9).unwrap();
        let sets = drawn.in_sets_of(3).unwrap();
        assert_eq!(sets[1], of(3..6, &cuts).out_of(9).unwrap());
        assert_eq!(drawn.at_contexts(&[0]).unwrap().population(), Some(9));
        assert!(of(0..3, &cuts).in_sets_of(1).is_err());
        assert!(of(0..3, &cuts).in_sets_of(0).is_err());
    }

    #[test]
    fn fewer_cuts_leave_the_bias_at_the_others_as_it_was() {
        for cuts in [[0, 3, 8], [0, 3, 7]] {
            // The last one has a piece behind it where it lies before the window's end.
            let all = match cuts[2] {
                8 => of(0..4, &cuts),
                _ => {
                    let sizes: Vec<f64> = (1..=16).map(f64::from).collect();
                    let gram = sizes.iter().flat_map(|a| sizes.iter().map(move |b| a * b));
                    DirectStatistics::new(9, 1, cuts.to_vec(), 4, gram.collect()).unwrap()
                }
            };
            let whole = all.bias_squares();
            for some in [vec![0], vec![0, 3], vec![0, cuts[2]], cuts.to_vec()] {
                let part = all.at_contexts(&some).unwrap();
                assert_eq!(part.contexts(), some);
                let (whole_part, of_all) = (part.gradient_square(), all.gradient_square());
                assert!((whole_part - of_all).abs() < 1e-9);
                for (cut, square) in some.iter().zip(part.bias_squares()) {
                    let index = cuts.iter().position(|c| c == cut).unwrap();
                    assert!((square - whole[index]).abs() < 1e-9, "{some:?}");
                }
            }
            assert_eq!(all.at_contexts(&cuts).unwrap(), all);
            assert!(all.at_contexts(&[0, 4]).is_err());
            assert!(all.at_contexts(&[3]).is_err());
            assert!(all.at_contexts(&[]).is_err());
        }
    }
}
