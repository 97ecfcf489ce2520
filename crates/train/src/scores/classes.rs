//! Scores of predicted classes, all from the confusion matrix.

/// How often each class was taken for each: counts `[truth, prediction]`.
///
/// Definitions are scikit-learn's: a ratio without cases is 0, and classes that occur neither as truth nor as prediction do not
/// count in averages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

impl Confusion {
    /// No cases of `classes` classes yet.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// The matrix of paired truths and predictions, and `None` if a class is not below `classes`.
    pub fn of(classes: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Option<Self> {
        let mut confusion = Self::new(classes);
        pairs.into_iter().all(|(truth, prediction)| confusion.add(truth, prediction)).then_some(confusion)
    }

    /// Counts a case; whether both classes are among those that there are.
    pub fn add(&mut self, truth: usize, prediction: usize) -> bool {
        let known = truth < self.classes && prediction < self.classes;
        if known {
            self.counts[truth * self.classes + prediction] += 1;
        }
        known
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How often `truth` was taken for `prediction`; 0 for classes that there are not.
    pub fn count(&self, truth: usize, prediction: usize) -> u64 {
        let known = truth < self.classes && prediction < self.classes;
        if known { self.counts[truth * self.classes + prediction] } else { 0 }
    }

    /// Number of cases.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Share of cases whose class was found.
    pub fn accuracy(&self) -> f64 {
        ratio(self.hits() as f64, self.total() as f64)
    }

    /// Share of the predictions of a class that were right.
    pub fn precision(&self, class: usize) -> f64 {
        ratio(self.count(class, class) as f64, self.predicted(class) as f64)
    }

    /// Share of the cases of a class that were found.
    pub fn recall(&self, class: usize) -> f64 {
        ratio(self.count(class, class) as f64, self.actual(class) as f64)
    }

    /// Harmonic mean of precision and recall of a class, `2 tp / (2 tp + fp + fn)`.
    pub fn f1(&self, class: usize) -> f64 {
        ratio(2.0 * self.count(class, class) as f64, (self.predicted(class) + self.actual(class)) as f64)
    }

    /// Mean F1 of the classes that occur.
    pub fn f1_macro(&self) -> f64 {
        let occurs = |&class: &usize| self.predicted(class) + self.actual(class) > 0;
        let scores: Vec<f64> = (0..self.classes).filter(occurs).map(|class| self.f1(class)).collect();
        ratio(scores.iter().sum(), scores.len() as f64)
    }

    /// F1 of the cases of all classes together: the accuracy, unless `ignored` leaves out a class, such as the `O` of tagged words.
    pub fn f1_micro(&self, ignored: Option<usize>) -> f64 {
        let counted = || (0..self.classes).filter(|&class| Some(class) != ignored);
        let hits: u64 = counted().map(|class| self.count(class, class)).sum();
        let both: u64 = counted().map(|class| self.predicted(class) + self.actual(class)).sum();
        ratio(2.0 * hits as f64, both as f64)
    }

    /// Matthews' correlation coefficient, -1 to 1, of any number of classes; 0 where one of both sides never varies.
    ///
    /// J. Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004.
    pub fn matthews(&self) -> f64 {
        let (total, hits) = (self.total() as f64, self.hits() as f64);
        let sum = |f: &dyn Fn(usize) -> f64| (0..self.classes).map(f).sum::<f64>();
        let actual = |class| self.actual(class) as f64;
        let predicted = |class| self.predicted(class) as f64;
        let covariance = hits * total - sum(&|class| actual(class) * predicted(class));
        let variances = (total * total - sum(&|class| actual(class).powi(2)))
            * (total * total - sum(&|class| predicted(class).powi(2)));
        ratio(covariance, variances.sqrt())
    }

    fn hits(&self) -> u64 {
        (0..self.classes).map(|class| self.count(class, class)).sum()
    }

    fn predicted(&self, class: usize) -> u64 {
        (0..self.classes).map(|truth| self.count(truth, class)).sum()
    }

    fn actual(&self, class: usize) -> u64 {
        (0..self.classes).map(|prediction| self.count(class, prediction)).sum()
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    /// Truths and predictions of four classes, of which the last never occurs.
    fn confusion() -> Confusion {
        let truths = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2];
        let predictions = [0, 1, 0, 1, 1, 2, 1, 2, 0, 2];
        Confusion::of(4, truths.into_iter().zip(predictions)).expect("known classes")
    }

    #[test]
    fn scores_are_those_of_scikit_learn() {
        let confusion = confusion();
        assert!(close(confusion.accuracy(), 0.7) && close(confusion.f1_micro(None), 0.7));
        assert!(
            close(confusion.f1_macro(), 0.6944444444444443)
                && close(confusion.matthews(), 0.5454545454545454)
        );
        assert!(close(confusion.f1_micro(Some(0)), 0.7142857142857143));
        assert!(close(confusion.precision(1), 0.75) && close(confusion.recall(2), 2.0 / 3.0));
    }

    #[test]
    fn perfect_inverted_and_constant_predictions_have_the_extreme_correlations() {
        let of =
            |pairs: &[(usize, usize)]| Confusion::of(2, pairs.iter().copied()).expect("known").matthews();
        assert!(close(of(&[(0, 0), (1, 1), (1, 1)]), 1.0));
        assert!(close(of(&[(0, 1), (1, 0), (1, 0)]), -1.0));
        assert!(close(of(&[(0, 0), (1, 0), (1, 0)]), 0.0));
    }

    #[test]
    fn no_cases_score_nothing_and_unknown_classes_are_told() {
        let none = Confusion::new(3);
        assert_eq!(
            (none.accuracy(), none.f1_macro(), none.f1_micro(None), none.matthews()),
            (0.0, 0.0, 0.0, 0.0)
        );
        assert!(Confusion::of(2, [(0, 2)]).is_none() && none.count(7, 0) == 0);
    }
}
